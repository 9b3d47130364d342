"""Data sets in COCO's format: a JSON file of images, annotations and categories, and a folder of images."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..data.class_names import is_name
from ..data.images import MAX_PIXELS, decode
from ..errors import InputError, shown
from ..files import read_json, require_file

__all__ = ["Annotated", "Category", "CocoSet", "Raw", "read_coco"]

logger = logging.getLogger(__name__)

LEAST_SIDE = 32  # smaller images are not trained on
LARGEST_FILE = 8 << 30  # bytes; COCO's own has 0.45e9
_LARGEST_ID = 2**63 - 1
_FARTHEST = 1e6  # pixels that a box may reach


@dataclass(frozen=True)
class Category:
    """A class: its number in the file, and its name; classes count from 0, in the order of their numbers."""

    id: int
    name: str


@dataclass
class Annotated:
    """An image and what is in it; crowds are apart, and are never trained on.

    Attributes:
        id: the image's number in the file.
        height, width: as the file says.
        boxes: ``(G, 4)`` float32, corners in pixels, as annotated: parts may be outside the image.
        classes: ``(G,)`` int32, from 0.
        segmentations: ``G`` of them, polygons or run lengths; None where there is none.
        annotated: how many annotations the image has, those that are left out included.
    """

    id: int
    file_name: str
    height: int
    width: int
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    segmentations: List[Any] = field(default_factory=list)
    annotated: int = 0


@dataclass(frozen=True)
class Raw:
    """A decoded image, ``pixels (H, W, 3)`` uint8 RGB, and its annotations."""

    image: Annotated
    pixels: np.ndarray


@dataclass(frozen=True)
class CocoSet:
    """A data set, as a source of :class:`mindcv_models.data.Loader`.

    Attributes:
        path: the JSON file.
        folder: where the images are.
    """

    path: Path
    folder: Path
    categories: Tuple[Category, ...]
    images: Tuple[Annotated, ...]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self.folder / self.images[index].file_name)

    def read(self, index: int, data: Optional[bytes] = None) -> Raw:
        """The image ``index``, decoded, as its annotations see it: of the size that they say.

        It is turned as its EXIF orientation says, as everywhere, and stays as it is stored if only that fits.

        Args:
            data: the image's file, if it is read already.

        Raises:
            UnreadableImageError: it cannot be decoded.
            InputError: it is not there, or not of the annotated size.
        """
        image = self.images[index]
        for upright in (True, False):
            pixels = decode(self.name(index), upright, data)
            if pixels.shape[:2] == (image.height, image.width):
                return Raw(image, pixels)
        height, width = pixels.shape[:2]
        raise InputError(
            f"{self.name(index)} is {width} x {height}, but {self.path} says that image {image.id} is "
            f"{image.width} x {image.height}: restore the image, or correct the file."
        )

    def class_names(self) -> List[str]:
        """A name for each class, on one line and unlike the others: with its number where the file is not so clear."""
        names = [" ".join(category.name.split()) for category in self.categories]
        return [
            name if name and names.count(name) == 1 else f"{name or 'category'} ({category.id})"
            for name, category in zip(names, self.categories)
        ]

    def twins(self) -> List[str]:
        """The names that several categories have: the classes stay apart, though that is hardly meant."""
        count = Counter(" ".join(category.name.split()) for category in self.categories)
        return [f"{shown(name)} is the name of {many} categories" for name, many in count.items() if many > 1]

    def chosen(self, indices: Sequence[int]) -> "CocoSet":
        """Some of the images."""
        return CocoSet(self.path, self.folder, self.categories, tuple(self.images[k] for k in indices))

    def to_train(self) -> "CocoSet":
        """Those with at least one annotation, whatever became of it, and sides of 32 pixels at least.

        Raises:
            InputError: none is left.
        """
        kept = [
            k for k, image in enumerate(self.images)
            if image.annotated and min(image.height, image.width) >= LEAST_SIDE
        ]  # fmt: skip
        if not kept:
            raise InputError(
                f"{self.path} has no image to train on: it needs annotations and images of {LEAST_SIDE} pixels."
            )
        if len(kept) < len(self):
            logger.info("%s: %d of %d images are trained on", self.path, len(kept), len(self))
        return self.chosen(kept)

    def present(self, skip: bool) -> "CocoSet":
        """The images whose files exist.

        Args:
            skip: leave out those that are missing, rather than raise.

        Raises:
            InputError: a file is missing, or all are.
        """
        found: Dict[Path, set] = {}
        missing = []
        for k, image in enumerate(self.images):
            path = self.folder / image.file_name
            if path.parent not in found:
                found[path.parent] = set(os.listdir(path.parent)) if os.path.isdir(path.parent) else set()
            if path.name not in found[path.parent]:
                missing.append(k)
        if not missing:
            return self
        first = self.images[missing[0]]
        if not skip or len(missing) == len(self):
            raise InputError(
                f"{len(missing)} of {len(self)} images of {self.path} are not in {self.folder}, image {first.id}, "
                f"{first.file_name}, first: set image_dir to where they are, or use --skip_bad_images True."
            )
        logger.warning("%s: %d images are missing, %s first, and left out", self.path, len(missing), first.file_name)
        return self.chosen(sorted(set(range(len(self))) - set(missing)))


def read_coco(path, folder, annotated: bool = True) -> CocoSet:
    """Read a file of annotations.

    Left out are annotations that are marked ``ignore``, boxes that do not meet their image, and those without area or
    less than a pixel wide or high. Crowds are counted, but are no objects.

    Args:
        folder: what the images' ``file_name`` is relative to.
        annotated: whether there must be annotations, as training and validation need.

    Raises:
        InputError: the file is missing or damaged, or something in it makes no sense; it names the file and the id.
    """
    path = Path(path)
    content = load(path)
    known = ("images", "categories", *(("annotations",) if annotated else ()))
    for key in known:
        if not isinstance(content.get(key), list):
            raise InputError(
                f"{path} has no list {key!r}, but must be in COCO's format: images, annotations, categories."
            )
    reader = _Reader(path)
    categories = reader.categories(content["categories"])
    images = reader.images(content["images"])
    reader.annotations(content.get("annotations", []), images, categories)
    return CocoSet(path, Path(folder), categories, tuple(images.values()))


def load(path: Path) -> Dict[str, Any]:
    advice = "set data_dir to a COCO folder, or give the JSON files as train_annotations and val_annotations"
    require_file(path, "file of annotations", advice)
    content = read_json(path, "file of annotations", LARGEST_FILE)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but must be an object with images and annotations.")
    return content


class _Reader:
    """Turns the entries of one file into objects, and refuses those that make no sense."""

    def __init__(self, path: Path):
        self.path = path

    def refuse(self, what: str):
        raise InputError(f"{self.path}: {what}.")

    def identifier(self, entry, kind: str, key: str = "id") -> int:
        if not isinstance(entry, dict):
            self.refuse(f"an entry of its {kind}s is {shown(entry)}, but must be an object")
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST_ID:
            whose = "" if key == "id" else f" {shown(entry.get('id'))}"
            self.refuse(f"{kind}{whose} has {key} {shown(value)}, but ids must be whole numbers")
        return value

    def categories(self, entries) -> Tuple[Category, ...]:
        found = {}
        for entry in entries:
            number = self.identifier(entry, "category")
            if number in found:
                self.refuse(f"two categories have id {number}: give each its own")
            name = entry.get("name")
            if not isinstance(name, str) or not is_name(name):
                self.refuse(f"category {number} has name {shown(name)}, but must have a text on one line")
            found[number] = Category(number, name)
        if not found:
            self.refuse("it has no categories: add one for each class")
        return tuple(found[number] for number in sorted(found))

    def images(self, entries) -> Dict[int, Annotated]:
        found = {}
        for entry in entries:
            number = self.identifier(entry, "image")
            if number in found:
                self.refuse(f"two images have id {number}: give each its own")
            name = entry.get("file_name")
            if not isinstance(name, str) or not name.strip("/.") or "\0" in name:
                self.refuse(f"image {number} has file_name {shown(name)}, but must have the name of a file")
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
                self.refuse(
                    f"image {number} has file_name {shown(name)}, which leads out of the folder of images: correct it, "
                    "and set image_dir to the folder that the names are relative to"
                )
            sides = [entry.get(side) for side in ("height", "width")]
            if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
                self.refuse(f"image {number} has height and width {shown(sides)}, but both must be 1 or more pixels")
            if sides[0] * sides[1] > MAX_PIXELS:
                self.refuse(f"image {number} has height and width {shown(sides)}, more than {MAX_PIXELS:,} pixels")
            found[number] = Annotated(number, name, *sides)
        if not found:
            self.refuse("it has no images")
        return found

    def annotations(self, entries, images: Dict[int, Annotated], categories: Sequence[Category]) -> None:
        """Give every image its objects."""
        classes = {category.id: k for k, category in enumerate(categories)}
        numbers, kept = set(), {number: [] for number in images}
        for entry in entries:
            number = self.identifier(entry, "annotation")
            if number in numbers:
                self.refuse(f"two annotations have id {number}: give each its own")
            numbers.add(number)
            image, category = (self.identifier(entry, "annotation", key) for key in ("image_id", "category_id"))
            if image not in images:
                self.refuse(f"annotation {number} is of image {image}, which is not among its images")
            if category not in classes:
                self.refuse(f"annotation {number} is of category {category}, which is not among its categories")
            images[image].annotated += 1
            box = self.box(entry, number)
            if not entry.get("iscrowd") and not entry.get("ignore") and _is_object(box, entry, images[image]):
                kept[image].append((box, classes[category], entry.get("segmentation")))
        for number, objects in kept.items():
            if objects:
                boxes, labels, segmentations = zip(*objects)
                x, y, w, h = np.array(boxes, np.float64).T
                images[number].boxes = np.stack([x, y, x + w, y + h], 1).astype(np.float32)
                images[number].classes = np.array(labels, np.int32)
                images[number].segmentations = list(segmentations)

    def box(self, entry, number) -> List[float]:
        box = entry.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
        if not numbers or max(map(abs, box)) > _FARTHEST:
            self.refuse(f"annotation {number} has bbox {shown(box)}, but must have x, y, width and height")
        area = entry.get("area", box[2] * box[3])
        if not is_number(area):
            self.refuse(f"annotation {number} has area {shown(area)}, but must have a number")
        return box


def is_number(value) -> bool:
    """Whether a value of a JSON file is a coordinate, an area or a score: neither NaN nor beyond all images."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _FARTHEST**2


def _is_object(box, entry, image: Annotated) -> bool:
    x, y, w, h = box
    meets = min(x + w, image.width) > max(x, 0) and min(y + h, image.height) > max(y, 0)
    return meets and w >= 1 and h >= 1 and entry.get("area", w * h) > 0


def find_annotations(given: str, data_dir: str, split: str) -> Path:
    """The file of a split: the one that is given, or the one of a COCO folder."""
    return Path(given) if given else Path(data_dir, "annotations", f"instances_{split}.json")


def find_images(image_dir: Optional[str], given: str, data_dir: str, split: str) -> Path:
    """The folder of a split's images: ``image_dir``, or that of a COCO folder; with a file of one's own, data_dir."""
    if image_dir:
        return Path(image_dir)
    return Path(data_dir) if given else Path(data_dir, split)

"""The embedded data set ``digits_scenes``: real handwritten digits on real photographs.

It is written once, as an ordinary COCO folder that also has the layout of ADE20K::

    annotations/instances_train2017.json, instances_val2017.json   boxes, masks (run lengths), ten categories
    train2017/, val2017/                                           the scenes
    images/training/, images/validation/                           the same files
    annotations/training/, annotations/validation/                 label maps, PNG
    classes.txt                                                    names of the label maps' values 1 to 11
    digits/train/0/, digits/val/9/, ...                            squares around single digits, for a classifier that
                                                                   detectors and segmenters start from; written when
                                                                   asked for

Values of label maps: 1 to 10 are the digits "0" to "9", 11 is the background; there is no 0, which would be ignored.
The digits are scikit-learn's (Alpaydin and Kaynak, UCI, 1998), split as the data set ``digits`` is: no image of a digit
is in both parts. The photographs are scikit-learn's and scikit-image's (licences in NOTICE); training scenes see the
left parts of them, validation scenes the right parts.
"""

import importlib.util
import json
import logging
import os
import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import atomic_folder, remove_partials, write_text

__all__ = ["CLASS_NAMES", "write_scenes", "write_single_digits"]

logger = logging.getLogger(__name__)

CLASS_NAMES = tuple("0123456789")
SCENES = (1000, 250)  # to train, to validate
SPLITS = (("train2017", "training"), ("val2017", "validation"))
SIDES = (144, 160)  # least and largest side of a scene, in pixels
SIZES = (16, 56)  # of a digit's longer side
MOST = 6  # digits in a scene
VISIBLE = 0.6  # part of a digit that others leave uncovered, at least
TOUCHING = 0.3  # of the digits are put beside another one
CONTRAST = 90  # least difference in brightness between a digit and what is behind it, of 255
CONTEXT = 1.4  # side of the square around a digit of a scene, of the longer side of its box
ALONE = 64  # side of a piece of a photograph with one digit on it
COPIES = 2  # such pieces for each digit to train
OFFSET = 8  # of the digit from the middle of the piece, at most
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
)


class Scene(NamedTuple):
    """A picture and what is in it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8.
        owners: ``(H, W)``: the object at each pixel, an index of ``labels``, -1 for none.
        labels: the digit of each object.
    """

    pixels: np.ndarray
    owners: np.ndarray
    labels: List[int]


def write_scenes(folder, counts: Tuple[int, int] = SCENES) -> Path:
    """Write the scenes to ``folder``, unless they are there; the same files every time.

    Args:
        counts: scenes to train and to validate.

    Raises:
        InputError: scikit-image, which has some of the photographs, is not installed; or the folder has other files.
    """
    root = Path(folder)
    remove_partials(root.parent, root.name)
    if all((root / "annotations" / f"instances_{split}.json").is_file() for split, _ in SPLITS):
        return root
    if root.is_dir() and any(root.iterdir()):
        raise InputError(f"data_dir is {root}, which has other files: give digits_scenes a new folder.")
    logger.info("writing %d and %d scenes to %s", *counts, root)
    photographs, digits = load_photographs(), load_digits()
    with atomic_folder(root) as partial:
        for part, ((split, other), count) in enumerate(zip(SPLITS, counts)):
            for name in (split, f"images/{other}", f"annotations/{other}"):
                (partial / name).mkdir(parents=True, exist_ok=True)
            annotations = write_split(partial, part, count, photographs[part], digits[part])
            write_text(partial / "annotations" / f"instances_{split}.json", json.dumps(annotations))
        write_text(partial / "classes.txt", "\n".join((*CLASS_NAMES, "background")) + "\n")
    return root


def write_single_digits(folder) -> Path:
    """Write pictures of single digits, unless that has been done.

    They are cut out of the scenes in ``folder``, which are written first. So that a classifier learns digits of every
    size, the training part also has each digit ``COPIES`` times alone on a piece of a photograph.

    Args:
        folder: of the scenes, or the one that this function returned.

    Returns:
        The image folder, ``train/<digit>/`` and ``val/<digit>/``.
    """
    if all((Path(folder) / part).is_dir() for part in ("train", "val")):
        return Path(folder)
    root = write_scenes(folder)
    target = root / "digits"
    if target.is_dir():
        return target
    with atomic_folder(target) as partial:
        for split, _ in SPLITS:
            write_digits_of(split, root, partial / split.removesuffix("2017"))
        write_digits_alone(partial / "train")
    return target


def write_digits_of(split: str, root: Path, target: Path) -> None:
    """Cut the digits of one part out of its scenes, each of which is decoded once."""
    for name in CLASS_NAMES:
        (target / name).mkdir(parents=True)
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for image, found in groupby(content["annotations"], itemgetter("image_id")):
        pixels = np.asarray(Image.open(root / split / names[image]))
        for each in found:
            path = target / CLASS_NAMES[each["category_id"] - 1] / f"{each['id']:06d}.png"
            Image.fromarray(cut_out(pixels, *each["bbox"])).save(path)


def write_digits_alone(target: Path) -> None:
    """Draw every digit to train on pieces of the photographs to train, in the sizes that it has in scenes."""
    photographs, (images, labels) = load_photographs()[0], load_digits()[0]
    for index, (image, label) in enumerate(zip(images, labels)):
        for copy in range(COPIES):
            rng = np.random.default_rng([len(SPLITS), index, copy])
            pixels = background(rng, photographs[rng.integers(len(photographs))], *[SIDES[0]] * 2)
            y, x = rng.integers(SIDES[0] - ALONE + 1, size=2)
            pixels = pixels[y : y + ALONE, x : x + ALONE]
            ink = enlarged(image, rng.integers(SIZES[0], SIZES[1] + 1))
            y, x = ((ALONE - side) // 2 + rng.integers(-OFFSET, OFFSET + 1) for side in ink.shape)
            paint(rng, pixels, ink, max(0, min(y, ALONE - ink.shape[0])), max(0, min(x, ALONE - ink.shape[1])))
            path = target / CLASS_NAMES[label] / f"alone_{index:04d}_{copy}.png"
            Image.fromarray(np.round(pixels).astype(np.uint8)).save(path)


def cut_out(pixels: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The square around a box, ``CONTEXT`` times its longer side; beyond the border of the scene, its mirror image."""
    side = round(CONTEXT * max(width, height))
    top, left = y + (height - side) // 2 + side, x + (width - side) // 2 + side
    return np.pad(pixels, ((side, side), (side, side), (0, 0)), "symmetric")[top : top + side, left : left + side]


def load_photographs() -> Tuple[List[np.ndarray], List[np.ndarray]]:
    """The left two thirds of every photograph, to train, and the right thirds, to validate."""
    parts = [], []
    for package, name in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise InputError(
                f"digits_scenes needs the photographs of {package}, which is not installed: "
                "pip install -r requirements.txt."
            )
        pixels = np.asarray(Image.open(Path(spec.origin).parent / name).convert("RGB"))
        border = 2 * pixels.shape[1] // 3
        parts[0].append(pixels[:, :border])
        parts[1].append(pixels[:, border:])
    return parts


def load_digits():
    """``(images, labels)`` to train and to validate: ``(N, 8, 8)`` float32, ink from 0 to 1, and ``(N,)``."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    digits = load()
    images, labels = (digits.images / 16).astype(np.float32), digits.target
    index = np.arange(len(labels))
    return [(images[i], labels[i]) for i in train_test_split(index, train_size=1400, random_state=0, stratify=labels)]


def write_split(root: Path, part: int, count: int, photographs, digits) -> Dict:
    """Write the pictures and label maps of one part; its annotations, as COCO has them."""
    split, other = SPLITS[part]
    images, annotations = [], []
    for index in range(count):
        scene = draw_scene(np.random.default_rng([part, index]), photographs, *digits)
        height, width = scene.owners.shape
        name = f"{index + 1:012d}"
        picture = root / split / f"{name}.jpg"
        Image.fromarray(scene.pixels).save(picture, quality=95)
        link(picture, root / "images" / other / picture.name)
        values = np.array([*(label + 1 for label in scene.labels), len(CLASS_NAMES) + 1], np.uint8)
        Image.fromarray(values[scene.owners]).save(root / "annotations" / other / f"{name}.png")
        images.append({"id": index + 1, "file_name": picture.name, "width": width, "height": height})
        for k, label in enumerate(scene.labels):
            annotations.append(annotation(scene.owners == k, label, index + 1, len(annotations) + 1))
    return {
        "info": {"description": "digits_scenes: handwritten digits on photographs"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)],
    }


def link(source: Path, target: Path) -> None:
    """Let ``target`` be the same file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def annotation(mask: np.ndarray, label: int, image: int, number: int) -> Dict:
    """The annotation of the visible part of one digit."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def run_lengths(mask: np.ndarray) -> List[int]:
    """COCO's run lengths of a mask ``(H, W)``: column by column, zeros first."""
    flat = np.concatenate(([0], mask.T.ravel().astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(flat))
    ends = np.concatenate(([0], edges, [mask.size] if mask.size not in edges else []))
    return np.diff(ends).astype(int).tolist()


def draw_scene(rng: np.random.Generator, photographs, images: np.ndarray, labels: np.ndarray) -> Scene:
    """One scene: 1 to 6 digits on a piece of a photograph."""
    height, width = rng.integers(SIDES[0], SIDES[1] + 1, 2)
    pixels = background(rng, photographs[rng.integers(len(photographs))], height, width)
    owners = np.full((height, width), -1)
    found, boxes, sizes = [], [], []
    for _ in range(rng.integers(1, MOST + 1)):
        index = rng.integers(len(images))
        ink = enlarged(images[index], rng.integers(SIZES[0], SIZES[1] + 1))
        place = free_place(rng, owners, ink >= 0.5, sizes, boxes)
        if place is None:
            continue
        y, x = place
        h, w = ink.shape
        paint(rng, pixels, ink, y, x)
        owners[y : y + h, x : x + w][ink >= 0.5] = len(found)
        sizes.append(int((ink >= 0.5).sum()))
        boxes.append((y, x, h, w))
        found.append(int(labels[index]))
    return Scene(np.round(pixels).astype(np.uint8), owners, found)


def paint(rng, pixels, ink, y, x) -> None:
    """Put ink, ``(h, w)``, into ``(H, W, 3)`` float32 at row ``y`` and column ``x``, in a random colour."""
    region = pixels[y : y + ink.shape[0], x : x + ink.shape[1]]
    region += ink[..., None] * (colour(rng, region, ink) - region)


def background(rng, photograph, height, width) -> np.ndarray:
    """A random piece of a photograph, ``(height, width, 3)`` float32, enlarged or reduced at random."""
    rows, columns = photograph.shape[:2]
    scale = min(rows / height, columns / width) * rng.uniform(0.5, 1)
    h, w = int(height * scale), int(width * scale)
    y, x = rng.integers(rows - h + 1), rng.integers(columns - w + 1)
    piece = Image.fromarray(np.ascontiguousarray(photograph[y : y + h, x : x + w]))
    return np.asarray(piece.resize((int(width), int(height)), Image.Resampling.BILINEAR), np.float32).copy()


def enlarged(image: np.ndarray, size: int) -> np.ndarray:
    """The ink of a digit, cut to what is written, its longer side ``size`` pixels; 0 to 1."""
    rows, columns = np.flatnonzero((image > 0.2).any(1)), np.flatnonzero((image > 0.2).any(0))
    cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = (max(4, round(side * size / max(cut.shape))) for side in cut.shape)
    ink = np.asarray(Image.fromarray(cut).resize((int(w), int(h)), Image.Resampling.BICUBIC))
    return np.clip(ink * 1.5 - 0.15, 0, 1)


def free_place(rng, owners, mask, sizes, boxes):
    """Where (row, column) a digit may lie so that each earlier one stays visible enough; None after 30 tries."""
    height, width = owners.shape
    h, w = mask.shape
    for _ in range(30):
        y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        if boxes and rng.random() < TOUCHING:
            top, left, tall, wide = boxes[rng.integers(len(boxes))]
            y = int(np.clip(top + (tall - h) // 2 + rng.integers(-3, 4), 0, height - h))
            x = int(np.clip(left + wide + rng.integers(-3, 2), 0, width - w))
        covered = np.bincount(owners[y : y + h, x : x + w][mask] + 1, minlength=len(sizes) + 1)[1:]
        left_over = [(owners == k).sum() - covered[k] for k in range(len(sizes))]
        if all(left >= VISIBLE * size for left, size in zip(left_over, sizes)):
            return y, x
    return None


def colour(rng, region, ink) -> np.ndarray:
    """A colour, ``(3,)``, that stands out from what is behind the ink, ``(h, w, 3)``."""
    weights = np.array([0.299, 0.587, 0.114])
    behind = (region * ink[..., None]).sum((0, 1)) @ weights / ink.sum()
    while True:
        drawn = rng.uniform(0, 255, 3)
        if abs(drawn @ weights - behind) >= CONTRAST:
            return drawn.astype(np.float32)

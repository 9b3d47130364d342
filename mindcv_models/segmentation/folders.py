"""Pictures and their label maps, in two folders: ADE20K as it is downloaded, or any others."""

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from PIL import Image

from ..data.class_names import CLASS_FILE, read_class_names
from ..data.embedded import write_embedded
from ..data.files import IMAGE_SUFFIXES, image_names
from ..data.images import UnreadableImageError, check_size, decode, read_whole
from ..data.scenes import write_scenes
from ..distributed import World
from ..errors import InputError
from .transforms import IGNORED

__all__ = ["LabelMap", "LabelledPictures", "Tolerant", "class_list", "list_pictures", "prepare"]

logger = logging.getLogger(__name__)

ADE20K_LIST = "objectInfo150.txt"  # beside ADE20K's folders: a line a class, its name in the last column


@dataclass(frozen=True)
class LabelMap:
    """What the numbers in the files of label maps mean.

    Attributes:
        classes: how many there are.
        first_label: the number of class 0; smaller ones count nowhere.
        ignore_label: a number that counts nowhere, or None.
    """

    classes: int
    first_label: int = 0
    ignore_label: Optional[int] = 255

    def read(self, path: str) -> np.ndarray:
        """The classes ``(H, W)`` int16 in a PNG of numbers or of palette indices; ``IGNORED`` where none counts.

        Raises:
            InputError: the file is no label map, or has numbers of no class.
        """
        labels = read_numbers(path) - self.first_label
        ignored = labels < 0
        if self.ignore_label is not None:
            ignored |= labels == self.ignore_label - self.first_label
        wrong = (labels >= self.classes) & ~ignored
        if wrong.any():
            self._refuse(path, labels[wrong] + self.first_label)
        labels[ignored] = IGNORED
        return labels.astype(np.int16)

    def _refuse(self, path, wrong):
        number = int(wrong.min())
        ignored = "" if self.ignore_label is None else f", and {self.ignore_label} is ignored"
        raise InputError(
            f"label map {path} has the label {number} at {(wrong == number).sum()} pixels, but classes are "
            f"{self.first_label} to {self.first_label + self.classes - 1}{ignored}: correct the file, class_names, "
            "reduce_zero_label or ignore_label."
        )


def read_numbers(path: str) -> np.ndarray:
    """The numbers ``(H, W)`` int32 in a label map: of 1, 8 or 16 bits, or indices into a palette."""
    try:
        with Image.open(io.BytesIO(read_whole(path, "label map"))) as file:
            check_size(path, file.height, file.width)
            if file.format == "JPEG":
                raise InputError(f"label map {path} is a JPEG, whose compression changes numbers: save it as PNG.")
            mode, values = file.mode, np.asarray(file)
    except UnreadableImageError as error:  # which of a picture may be passed over, but not of its label map
        raise InputError(f"cannot decode label map {path} ({error.reason}): replace it.") from error
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow raise
        reason = "no image of a known kind, or a damaged one"
        if not isinstance(error, Image.UnidentifiedImageError):
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"cannot decode label map {path} ({reason}): replace it.") from error
    if mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise InputError(
            f"label map {path} is a colour picture ({mode}), but must have one number for each pixel: save it in grey "
            "or with a palette."
        )
    return values.astype(np.int32)


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and label maps by their paths; a source of :class:`mindcv_models.data.loader.Loader`."""

    pictures: Tuple[str, ...]
    labels: Tuple[str, ...]
    meaning: LabelMap

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures[index]

    def read(self, index: int, data: Optional[bytes] = None) -> Tuple[np.ndarray, np.ndarray]:
        """The picture ``(H, W, 3)`` uint8 RGB and its classes ``(H, W)`` int16.

        Args:
            data: the picture's file, if it is read already.

        Raises:
            InputError: a file is unreadable, or the two differ in size.
        """
        picture = decode(self.pictures[index], data=data)
        labels = self.meaning.read(self.labels[index])
        if picture.shape[:2] != labels.shape:
            sizes = " and ".join(f"{width} x {height}" for height, width in (picture.shape[:2], labels.shape))
            raise InputError(
                f"picture {self.pictures[index]} and label map {self.labels[index]} are {sizes}: they must have one "
                "size."
            )
        return picture, labels

    def draw(self, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
        """One at random, as :meth:`read` gives it."""
        return self.read(int(rng.integers(len(self))))

    def subset(self, count: int, seed: int) -> "LabelledPictures":
        """``count`` of them, the same ones for the same seed."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return replace(
            self, pictures=tuple(self.pictures[i] for i in chosen), labels=tuple(self.labels[i] for i in chosen)
        )


@dataclass(frozen=True)
class Tolerant:
    """A source that gives None in place of a picture that cannot be decoded, and its labels."""

    pictures: LabelledPictures

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def read(self, index: int) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        try:
            return self.pictures.read(index)
        except UnreadableImageError as error:
            logger.warning("%s is left out: %s", error.path, error.reason)
            return None


def list_pictures(options, training: bool) -> LabelledPictures:
    """The pictures of a split that the options name, sorted, with those below subfolders.

    Raises:
        InputError: a folder is missing or empty, or a picture or a label map has no counterpart.
    """
    split = "train" if training else "val"
    root = Path(options.data_dir)
    pictures = find(root / getattr(options, f"{split}_images"), f"{split}_images", options.image_suffix)
    labels = find(root / getattr(options, f"{split}_labels"), f"{split}_labels", options.label_suffix)
    for own, other, what in ((pictures, labels, "label map"), (labels, pictures, "picture")):
        alone = sorted(set(own) - set(other))
        if alone:
            more = f" (and {len(alone) - 1} others have none)" if alone[1:] else ""
            raise InputError(f"{own[alone[0]]} has no {what} of its name{more}: add what is missing, or remove it.")
    meaning = LabelMap(options.num_classes, options.first_label, options.ignore_label)
    names = sorted(pictures)
    return LabelledPictures(
        tuple(pictures[name] for name in names), tuple(labels[name] for name in names), meaning
    )  # fmt: skip


def find(folder: Path, name: str, suffix: str) -> dict:
    """The files below ``folder`` that end in ``suffix``, or any images, by what they are called without it."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: set data_dir and {name} to where the data is.")
    suffixes = (suffix.lower(),) if suffix else IMAGE_SUFFIXES
    found = {}
    for relative in image_names(folder):
        ending = next((s for s in suffixes if relative.lower().endswith(s)), None)
        if ending is None:
            continue
        key, path = relative[: -len(ending)], str(folder / relative)
        if key in found:
            raise InputError(f"{found[key]} and {path} have one name: remove one of them.")
        found[key] = path
    if not found:
        raise InputError(f"{folder} has no files that end in {' or '.join(suffixes)}: set {name} or its suffix.")
    return found


def class_list(options) -> Optional[List[str]]:
    """The names of the classes, from the file that the options or the data name; None if there is none."""
    if options.class_names:
        return read_class_names(Path(options.class_names))
    for name in (CLASS_FILE, ADE20K_LIST):
        path = Path(options.data_dir, name)
        if path.is_file():
            return read_class_names(path)
    return None


def prepare(options, world: World, training: bool):
    """The options with ``data_dir``, ``class_names`` and ``num_classes`` settled, after checking the folders.

    Rank 0 writes the embedded data set if it is asked for and not there yet. Of each split the first label map is read.

    Raises:
        InputError: a folder or file is missing or wrong, or disagrees with ``num_classes``.
    """
    options = write_embedded(options, {"digits_scenes": write_scenes}, world)
    names = class_list(options)
    if names is None and options.num_classes is None:
        raise InputError(
            f"how many classes are there? Give class_names a text file with a name a line, put it into "
            f"{options.data_dir} as {CLASS_FILE}, or set num_classes."
        )
    if names is not None and options.num_classes not in (None, len(names)):
        raise InputError(f"num_classes is {options.num_classes}, but the list of classes has {len(names)} names.")
    options = replace(options, num_classes=options.num_classes or len(names))
    for split in [True, False] if training and options.val_while_train else [training]:
        try:
            list_pictures(options, split).read(0)
        except UnreadableImageError:
            if not options.skip_bad_images:
                raise
    return options

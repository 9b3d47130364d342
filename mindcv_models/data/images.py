"""Images and their labels, read one at a time."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

import cv2
import numpy as np
from mindcv.data import create_dataset
from PIL import Image

from ..classification.split import read_split
from ..errors import InputError
from ..options import Options
from .files import class_folders, image_names

__all__ = ["STANDARD_DATASETS", "ImageSet", "decode", "list_images", "split_root", "workers"]

STANDARD_DATASETS = ("mnist", "cifar10", "cifar100")

# From height and width to the factor that an image is shrunk by.
Reduction = Callable[[int, int], int]

# The orientation that a camera notes is left alone, as Pillow does.
_FLAGS = {
    factor: flag | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for factor, flag in (
        (1, cv2.IMREAD_COLOR),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (8, cv2.IMREAD_REDUCED_COLOR_8),
    )
}

cv2.setNumThreads(0)  # its own threads would compete with the data workers
cv2.setLogLevel(0)  # images that it cannot decode are reported here


@dataclass(frozen=True)
class ImageSet:
    """Images, as paths or as ``(H, W, C)`` uint8 arrays, and their labels ``(N,)`` int32."""

    items: Sequence
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, reduction: Optional[Reduction] = None) -> Optional[np.ndarray]:
        """The image ``(H, W, C)`` uint8, or None if it cannot be decoded; ``reduction`` as for :func:`decode`."""
        item = self.items[index]
        return decode(item, reduction) if isinstance(item, str) else item

    def some(self, count: int, seed: int) -> "ImageSet":
        """``count`` of the images, the same ones for the same seed."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return ImageSet([self.items[index] for index in chosen], self.labels[chosen])


def decode(path: str, reduction: Optional[Reduction] = None) -> Optional[np.ndarray]:
    """The image ``(H, W, 3)`` uint8 RGB, or None if it cannot be decoded.

    Args:
        reduction: from the height and width of a JPEG image to 1, 2, 4 or 8, by which it is shrunk while it is decoded:
            that takes less time than decoding all of it. Other files are decoded as they are.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot read image {path} ({error.strerror}): restore or remove it.") from error
    size = reduction and _jpeg_size(encoded)
    flags = _FLAGS[reduction(*size)] if size else _FLAGS[1]
    image = cv2.imdecode(encoded, flags) if len(encoded) else None
    if image is not None:
        return image
    try:  # what OpenCV does not know, such as GIF
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _jpeg_size(encoded):
    """Height and width that the header of a JPEG file gives; None of another file, or a broken one."""
    data, at = memoryview(encoded), 2
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame, of any kind
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def list_images(options: Options, split: str) -> ImageSet:
    """A split of an image folder, classes and names sorted, or of one of MindCV's standard data sets, in memory."""
    name = options.dataset.lower()
    if name in STANDARD_DATASETS:
        return _standard(options, split)
    root = split_root(options, split)
    classes = class_folders(root)
    if options.split_file:
        names = read_split(options, split)
    else:
        names = [f"{folder}/{name}" for folder in classes for name in image_names(root / folder)]
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[name.partition("/")[0]] for name in names]
    return ImageSet([str(root / name) for name in names], np.array(labels, np.int32))


def split_root(options: Options, split: str) -> Path:
    """The folder of a split's class folders; both splits of a split folder have the same."""
    return Path(options.data_dir, "" if options.split_file else split)


def _standard(options, split):
    usage = "test" if split == options.val_split else split
    dataset = create_dataset(
        options.dataset.lower(), options.data_dir, usage, shuffle=False, download=options.dataset_download
    )
    label = "label" if "label" in dataset.get_col_names() else "fine_label"
    rows = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    return ImageSet([row["image"] for row in rows], np.array([row[label] for row in rows], np.int32))


def workers(options: Options) -> int:
    """Threads that make batches."""
    return min(options.num_parallel_workers, os.cpu_count() or 1)

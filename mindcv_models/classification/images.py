"""The images of a classification data set, and their labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence, Tuple, Union

import numpy as np
from mindcv.data import create_dataset

from ..data.files import class_folders, image_names
from ..data.images import Picture
from .options import ImageFolder
from .split import read_split

__all__ = ["STANDARD_DATASETS", "ImageSet", "list_images", "split_root"]

STANDARD_DATASETS = ("mnist", "cifar10", "cifar100")


@dataclass(frozen=True)
class ImageSet:
    """Images, as paths or as ``(H, W, C)`` uint8 arrays, and their labels ``(N,)`` int32."""

    items: Sequence
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tuple[Union[Picture, np.ndarray], int]:
        """The image, which is not decoded yet if it is a file, and its label."""
        item = self.items[index]
        return Picture(item) if isinstance(item, str) else item, self.labels[index]

    def name(self, index: int) -> str:
        """The path, or the image's number if there is none."""
        item = self.items[index]
        return item if isinstance(item, str) else f"image {index}"

    def some(self, count: int, seed: int) -> "ImageSet":
        """``count`` of the images, the same ones for the same seed."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return ImageSet([self.items[index] for index in chosen], self.labels[chosen])


def list_images(options: ImageFolder, split: str) -> ImageSet:
    """A split of an image folder, classes and names sorted, or of one of MindCV's standard data sets, in memory."""
    if options.dataset.lower() in STANDARD_DATASETS:
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


def split_root(options: ImageFolder, split: str) -> Path:
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

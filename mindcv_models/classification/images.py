"""The images of a classification data set, and their labels."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence, Tuple, Union

import numpy as np
from mindcv.data import create_dataset

from ..data.files import LAYOUT, image_names
from ..errors import InputError
from .label_file import labelled_images
from .labels import class_order, folders_of, split_root
from .options import ImageFolder
from .split import read_split

__all__ = ["STANDARD_DATASETS", "ImageSet", "list_images"]

STANDARD_DATASETS = ("mnist", "cifar10", "cifar100")


@dataclass(frozen=True)
class ImageSet:
    """Images, as paths or as ``(H, W, C)`` uint8 arrays, and their labels ``(N,)`` int32.

    Attributes:
        left_out: how many files of the class folders are no images, by suffix.
    """

    items: Sequence
    labels: np.ndarray
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tuple[Union[str, np.ndarray], int]:
        """The path or the pixels of an image, and its label."""
        return self.items[index], self.labels[index]

    def name(self, index: int) -> str:
        """The path, or the image's number if there is none."""
        item = self.items[index]
        return item if isinstance(item, str) else f"image {index}"

    def subset(self, count: int, seed: int) -> "ImageSet":
        """``count`` of the images, the same ones for the same seed."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return ImageSet([self.items[index] for index in chosen], self.labels[chosen])


def list_images(options: ImageFolder, split: str, classes: Optional[Sequence[str]] = None) -> ImageSet:
    """A split of an image folder, class by class, or of one of MindCV's standard data sets, in memory.

    Args:
        classes: names of the class folders, in the order of their labels; default: as
            :func:`~mindcv_models.classification.labels.class_order` has them. Other folders are left out.

    Raises:
        InputError: there are no images, or the split file names some that cannot be.
    """
    if options.dataset.lower() in STANDARD_DATASETS:
        return _standard(options, split)
    root, left_out = split_root(options, split), Counter()
    classes = classes or class_order(options, split)
    if options.labels and split == options.val_split:
        names, labels, without = labelled_images(options.labels, root, classes)
        left_out = {"images without a label": without} if without else {}
        return ImageSet([f"{root}/{name}" for name in names], np.array(labels, np.int32), left_out)
    label_of = {name: label for label, name in enumerate(classes)}
    if options.split_file:
        names = [name for name in read_split(options, split) if name.partition("/")[0] in label_of]
        _count_new(options, root, label_of, left_out)
    else:
        folder_of = folders_of(root, classes)
        label_of = {folder_of[name]: label for name, label in label_of.items() if name in folder_of}
        names = [f"{folder}/{name}" for folder in label_of for name in image_names(root / folder, left_out)]
    if not names:
        raise InputError(f"{root} has no images: {LAYOUT}.")
    labels = [label_of[name.partition("/")[0]] for name in names]
    return ImageSet([f"{root}/{name}" for name in names], np.array(labels, np.int32), left_out)


def _count_new(options, root, folders, left_out) -> None:
    """Count what is in neither part of a split: files that are no images, and images that came after it was made."""
    known = {name for split in (options.train_split, options.val_split) for name in read_split(options, split)}
    there = [
        f"{folder}/{name}"
        for folder in folders if (root / folder).is_dir()
        for name in image_names(root / folder, left_out)
    ]  # fmt: skip
    new = sum(name not in known for name in there)
    if new:
        left_out["images that are in no part of the split"] = new


def _standard(options, split):
    usage = "test" if split == options.val_split else split
    dataset = create_dataset(
        options.dataset.lower(), options.data_dir, usage, shuffle=False, download=options.dataset_download
    )
    label = "label" if "label" in dataset.get_col_names() else "fine_label"
    rows = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    return ImageSet([row["image"] for row in rows], np.array([row[label] for row in rows], np.int32))

"""What a network's classes are called."""

from pathlib import Path
from typing import List, Optional

from ..data.class_names import given_names, write_class_names
from . import imagenet
from .folders import class_names
from .options import ImageFolder

__all__ = ["find_class_names", "save_class_names"]


def find_class_names(given: Optional[str], checkpoint: Optional[Path], classes: Optional[int]) -> List[str]:
    """The names in the file ``given``, else of the run that wrote ``checkpoint``, else ImageNet-1K's, else numbers.

    Args:
        classes: how many the network has; None for as many as there are names, or ImageNet-1K's.

    Raises:
        InputError: a file of names cannot be read, or has another number of them.
    """
    names = given_names(given, checkpoint, classes)
    if names is not None:
        return names
    return imagenet.class_names() if classes in (None, 1000) else [f"class {i}" for i in range(classes)]


def save_class_names(options: ImageFolder, folder: Path) -> None:
    """Write the names of the training images' classes into a run's folder; a standard data set has none."""
    names = class_names(options, options.train_split)
    if names:
        write_class_names(names, folder)

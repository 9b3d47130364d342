"""What a network's classes are called."""

from pathlib import Path
from typing import List, Optional

from ..errors import InputError
from ..files import write_text
from . import imagenet
from .folders import class_names
from .labels import CLASS_FILE, read_class_names
from .options import ImageFolder

__all__ = ["CLASS_FILE", "find_class_names", "read_class_names", "save_class_names"]


def find_class_names(given: Optional[str], checkpoint: Optional[Path], classes: Optional[int]) -> List[str]:
    """The names in the file ``given``, else of the run that wrote ``checkpoint``, else ImageNet-1K's, else numbers.

    Args:
        classes: how many the network has; None for as many as there are names, or ImageNet-1K's.

    Raises:
        InputError: a file of names cannot be read, or has another number of them.
    """
    path = Path(given) if given else checkpoint and checkpoint.with_name(CLASS_FILE)
    if given or (path and path.is_file()):
        names = read_class_names(path)
        if len(names) != (classes or len(names)) or not names:
            raise InputError(f"class_names {path} has {len(names)} names, but the model has {classes} classes.")
        return names
    return imagenet.class_names() if classes in (None, 1000) else [f"class {i}" for i in range(classes)]


def save_class_names(options: ImageFolder, folder: Path) -> None:
    """Write the names of the training images' classes into a run's folder; a standard data set has none."""
    names = class_names(options, options.train_split)
    if names:
        write_text(folder / CLASS_FILE, "\n".join(names) + "\n")

"""What a network's classes are called."""

from pathlib import Path
from typing import List, Optional

from ..errors import InputError
from ..files import write_text
from . import imagenet
from .folders import class_names
from .options import ImageFolder

__all__ = ["CLASS_FILE", "find_class_names", "read_class_names", "save_class_names"]

# In a run's folder, beside its checkpoints: a name a line, in the order of the labels.
CLASS_FILE = "classes.txt"


def read_class_names(path: Path) -> List[str]:
    """The names in a text file, one a line, or of the class folders in a folder.

    Raises:
        InputError: it is neither.
    """
    try:
        if path.is_dir():
            return sorted(p.name for p in path.iterdir() if p.is_dir())
        return path.read_text(encoding="utf-8-sig").rstrip("\n").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read class_names {path}: give a text file, or a folder of class folders.") from error


def find_class_names(given: Optional[str], checkpoint: Path, classes: Optional[int]) -> List[str]:
    """The names in the file ``given``, else of the run that wrote ``checkpoint``, else ImageNet-1K's, else numbers.

    Args:
        classes: how many the network has; None for as many as there are names, or ImageNet-1K's.

    Raises:
        InputError: a file of names cannot be read, or has another number of them.
    """
    path = Path(given) if given else checkpoint.with_name(CLASS_FILE)
    if given or path.is_file():
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

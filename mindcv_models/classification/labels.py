"""Which class has which label: by the names of the class folders, never by their number."""

import logging
import re
import unicodedata
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ..data.class_names import CLASS_FILE, read_class_names
from ..data.files import class_folders, has_images
from ..errors import InputError
from . import imagenet
from .label_file import classes_in, labelled_images
from .options import ImageFolder

__all__ = [
    "check_classes",
    "class_order",
    "folders_of",
    "natural_order",
    "run_classes",
    "split_root",
]

logger = logging.getLogger(__name__)

NATURAL = "natural"


def split_root(options: ImageFolder, split: str) -> Path:
    """The folder of a split's class folders; both splits of a split folder have the same.

    Images with a file of labels may lie in data_dir itself.
    """
    root = Path(options.data_dir, "" if options.split_file else split)
    return Path(options.data_dir) if options.labels and split == options.val_split and not root.is_dir() else root


def class_order(options: ImageFolder, split: str) -> List[str]:
    """The classes of an image folder, in the order of their labels.

    They are those of ``class_map``, if it is given; else the sorted class folders of the training split, if it is
    there; else those of ``split``, or in the file of its labels.

    Raises:
        InputError: the folder is missing or empty, or a class that is trained on has no images.
    """
    if options.class_map not in (None, "", NATURAL):
        return read_class_names(Path(options.class_map), "class_map")
    train = split_root(options, options.train_split)
    if split != options.train_split and not train.is_dir():
        by_file = options.labels and classes_in(options.labels, options.num_classes)
        names = by_file or class_folders(split_root(options, split), empty=True)
        if options.num_classes == 1000 and set(names) < set(imagenet.identifiers()):
            return imagenet.identifiers()
    else:
        names = class_folders(train)
    return natural_order(names) if options.class_map == NATURAL else names


def folders_of(root: Path, classes: Sequence[str]) -> Dict[str, str]:
    """The folder of each class that has one, by the class's name.

    Accents may be written in two ways, and macOS chooses its own: names that differ in nothing else are one.
    """
    there = class_folders(root, empty=True)
    composed = {unicodedata.normalize("NFC", folder): folder for folder in there}
    exact = set(there)
    found = {name: name if name in exact else composed.get(unicodedata.normalize("NFC", name)) for name in classes}
    return {name: folder for name, folder in found.items() if folder is not None}


def natural_order(names: Sequence[str]) -> List[str]:
    """Sorted with numbers by their value, as timm does: 2 before 10."""
    return sorted(names, key=_with_numbers)


def _with_numbers(name):
    parts = re.split(r"(\d+)", name.lower())  # every second one is a number
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def run_classes(checkpoints: Sequence[Path]) -> Optional[str]:
    """The path of the class names that lie beside the checkpoints, if there are any.

    Raises:
        InputError: the checkpoints are of runs with different classes.
    """
    files = [path for path in (Path(each).with_name(CLASS_FILE) for each in checkpoints) if path.is_file()]
    for path in files[1:]:
        if read_class_names(path) != read_class_names(files[0]):
            raise InputError(
                f"{files[0]} and {path} have different classes: validate these checkpoints one by one, or give "
                "class_map one of the two."
            )
    return str(files[0]) if files else None


def check_classes(options: ImageFolder, split: str, training: bool) -> None:
    """Compare the class folders of a split with the classes that have labels, and say what is missing or left out.

    Raises:
        InputError: they have nothing in common; or, in training, there is a class folder that has no label.
    """
    root, order = split_root(options, split), class_order(options, split)
    if options.labels and split == options.val_split:
        labels = set(labelled_images(options.labels, root, order)[1])
        _say_missing(split, order, [name for label, name in enumerate(order) if label not in labels])
        return
    folders, folder_of = class_folders(root, empty=True), folders_of(root, order)
    extra = sorted(set(folders) - set(folder_of.values()))
    source = options.class_map if options.class_map not in (None, "", NATURAL) else options.train_split
    if extra and (training or len(extra) == len(folders)):
        raise InputError(
            f"{_some(extra)} in {root} {'is' if len(extra) == 1 else 'are'} not among the {len(order)} classes of "
            f"{source} ({_some(order)}): rename or remove the class folders, or give class_map the names in the order "
            "of their labels."
        )
    if extra:
        logger.info("%s: %d class folders are left out, not being among the classes of %s: %s",
                       split, len(extra), source, _some(extra))  # fmt: skip
    missing = [name for name in order if name not in folder_of or not has_images(root / folder_of[name])]
    if not options.split_file:
        _say_missing(split, order, missing)


def _say_missing(split, order, missing) -> None:
    if missing:
        logger.info("%s: no images of %d of the %d classes: %s", split, len(missing), len(order), _some(missing))


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(map(repr, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")

"""The names of classes, in the order of their labels: in a text file, in a folder of class folders, beside a run."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import List, Optional, Sequence

from ..errors import InputError, shown
from ..files import read_text, write_text

__all__ = ["CLASS_FILE", "class_names_of", "given_names", "is_name", "read_class_names", "write_class_names"]

# In a run's folder, beside its checkpoints: a name a line, in the order of the labels.
CLASS_FILE = "classes.txt"
LARGEST = 16 << 20  # bytes of a file of names
ADE20K_HEADING = ["Idx", "Ratio"]  # how the heading of ADE20K's objectInfo150.txt begins


def read_class_names(path: Path, option: str = "class_names") -> List[str]:
    """The names in a text file, or of the class folders in a folder.

    A text file is UTF-8, with or without a byte-order mark, and has a name a line, with its spaces; empty lines do not
    count. Of ADE20K's ``objectInfo150.txt`` the names are the last column.

    Args:
        option: what gave the path; messages name it.

    Raises:
        InputError: it is neither, cannot be read, is too large, has no names, or has a name twice.
    """
    if os.path.isdir(path):
        names, advice = _folders(path, option), "give it a folder for each class"
    else:
        names = [line for line in read_text(path, option, LARGEST).splitlines() if line.strip()]
        if names and names[0].split()[:2] == ADE20K_HEADING:
            names = [line.split("\t")[-1].strip() for line in names[1:]]
        advice = "give each class one line"
    if not names:
        raise InputError(f"{option} {path} has no names: {advice}.")
    bad = next((name for name in names if not is_name(name)), None)
    if bad is not None:
        raise InputError(f"{option} {path} has {shown(bad)}, which is no text on one line: {advice}.")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise InputError(f"{option} {path} has {shown(twice)} twice: {advice}.")
    return names


def is_name(text: str) -> bool:
    """Whether a text can be a class's name: on one line, and without control characters, which terminals obey."""
    return bool(text.strip()) and not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text)


def _folders(path, option) -> List[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {option} {path} ({error.strerror}): check its permissions.") from error


def given_names(given: Optional[str], checkpoint: Optional[Path], count: Optional[int]) -> Optional[List[str]]:
    """The names in ``given``, else of the run that wrote ``checkpoint``; None if there are neither.

    Args:
        count: how many classes the network has; None for as many as there are names.

    Raises:
        InputError: as :func:`read_class_names`, or there are not as many as ``count``.
    """
    if not given and not (checkpoint and (checkpoint.parent / CLASS_FILE).is_file()):
        return None
    path = Path(given) if given else checkpoint.parent / CLASS_FILE
    names = read_class_names(path)
    if count not in (None, len(names)):
        raise InputError(f"class_names {path} has {len(names)} names, but num_classes is {count}: give the right one.")
    return names


def class_names_of(options, published: Sequence[str], unnamed: str = "class {}") -> List[str]:
    """The names of the classes of the weights that a script's options ask for.

    Args:
        published: the names that count for published weights, if there are as many classes.
        unnamed: what a class without a name is called, by its number.

    Raises:
        InputError: as :func:`given_names`; or nothing says how many classes there are.
    """
    count = options.num_classes
    if options.wants_published and not options.class_names and count in (None, len(published)):
        return list(published)
    names = given_names(options.class_names, Path(options.ckpt_path) if options.ckpt_path else None, count)
    if names is None and count is None:
        raise InputError(
            f"no {CLASS_FILE} beside {options.ckpt_path}: give the names as class_names, or how many there are as "
            "num_classes."
        )
    return [unnamed.format(k) for k in range(count)] if names is None else names


def write_class_names(names: Sequence[str], folder: Path) -> None:
    """Write the names into a run's folder."""
    write_text(folder / CLASS_FILE, "".join(f"{name}\n" for name in names))

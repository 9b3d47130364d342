"""Labels of validation images from a CSV file, rather than from the folders that they are in."""

import csv
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ..data.files import image_names
from ..errors import InputError, nearest, shown
from ..files import read_text

__all__ = ["classes_in", "labelled_images", "read_labels"]

_HEADINGS = {"path", "image", "images", "file", "filename", "file_name", "file_path", "filepath", "image_path",
             "image_id", "imageid", "img", "id", "name"}  # fmt: skip


def read_labels(path: str) -> Dict[str, str]:
    """The class of each image as text, by the image's path or name; a line each, with or without a heading.

    The first column is the image, the second its class; commas, semicolons, tabs and, without any of them, blanks part
    them. Of ImageNet's ``n03995372 85 1 499 272``, a class and boxes, the first word is the class.

    Raises:
        InputError: it cannot be read, a line has one column, or an image has two classes.
    """
    lines = read_text(path, "file of labels").splitlines()
    parting = max(",;\t", key="\n".join(lines[:100]).count)
    found: Dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        cells = _cells(line, parting)
        if not cells or (number == 1 and cells[0].lower() in _HEADINGS):
            continue
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise InputError(f"{path}, line {number} is {shown(line)}: write an image, a comma and its class.")
        if found.setdefault(cells[0], cells[1]) != cells[1]:
            raise InputError(f"{path} has two classes for {shown(cells[0])}: give each image one.")
    if not found:
        raise InputError(f"{path} has no labels: write an image and its class per line, with a comma between.")
    return found


def _cells(line: str, parting: str) -> List[str]:
    try:
        cells = next(csv.reader([line], delimiter=parting), []) if parting in line else line.rsplit(None, 1)
    except csv.Error:  # a field that does not end
        cells = [line]
    cells = [cell.strip() for cell in cells]
    boxes = len(cells) == 2 and re.fullmatch(r"(n\d{8})( \d+){4,}( n\d{8}( \d+){4})*", cells[1])
    return [cells[0], boxes[1]] if boxes else cells


def classes_in(path: str, classes: Optional[int]) -> List[str]:
    """The classes that a file of labels names, sorted; of numbers, all from 0 to ``classes`` or the largest.

    Raises:
        InputError: see :func:`read_labels`.
    """
    names = set(read_labels(path).values())
    if not all(_is_number(name) for name in names):
        return sorted(names)
    return [str(number) for number in range(classes or max(map(int, names)) + 1)]


def _is_number(name) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def labelled_images(path: str, root: Path, classes: Sequence[str]) -> Tuple[List[str], List[int], int]:
    """The images of a file of labels, as paths below ``root``, their labels, and how many images have none.

    Args:
        classes: their names, in the order of the labels. A class that is none of them may be a label's number, if all
            are.

    Raises:
        InputError: an image is not there, or has a class that is not known.
    """
    found, label_of = read_labels(path), {name: label for label, name in enumerate(classes)}
    if not set(found.values()) & set(label_of) and all(map(_is_number, found.values())):
        label_of = {str(label): label for label in range(len(classes))}
        found = {image: str(int(label)) for image, label in found.items()}
    if not root.is_dir():
        raise InputError(f"no folder {root}: set data_dir to where the images of {path} are.")
    there = image_names(root)
    by_name = {name: name for name in there}
    for name in there:  # a name without its folders or its suffix will do, where it is one image's
        for short in {Path(name).name, Path(name).stem, str(Path(name).with_suffix(""))} - {name}:
            by_name[short] = name if by_name.get(short, name) == name else None
    names, labels = [], []
    for image, name in found.items():
        file = by_name.get(image.removeprefix("./"))
        if file is None:
            reason = "is the name of several images there: write their paths" if image in by_name else "is not there"
            raise InputError(f"{path} has {shown(image)}, which below {root} {reason}.")
        if name not in label_of:
            hint = nearest(name[:100], list(label_of)[:5000], "see class_map.")
            raise InputError(f"{path} has class {shown(name)}, which is none of the {len(classes)} classes: {hint}")
        names.append(file)
        labels.append(label_of[name])
    return names, labels, len(there) - len(set(names))

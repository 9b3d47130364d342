"""What an image folder looks like."""

import os
from pathlib import Path
from typing import List

from ..errors import InputError

__all__ = ["IMAGE_SUFFIXES", "LAYOUT", "class_folders", "image_names"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
LAYOUT = "an image folder looks like train/<class>/<image>.jpg and val/<class>/<image>.jpg"


def image_names(folder: Path) -> List[str]:
    """The names of a folder's images, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES))


def class_folders(root: Path) -> List[str]:
    """The names of the class folders in ``root``, in the order of their labels.

    Raises:
        InputError: ``root`` is missing or empty, or a class in it has no images.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: set data_dir and the name of its split; {LAYOUT}.")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not names:
        raise InputError(f"{root} has no class folders: {LAYOUT}.")
    for name in names:
        if not image_names(root / name):
            raise InputError(
                f"class folder {root / name} has no images: add {', '.join(IMAGE_SUFFIXES)} files or remove it."
            )
    return names

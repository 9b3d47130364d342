"""Which files of a folder are images."""

import glob
import os
from pathlib import Path
from typing import Iterator, List

from ..errors import InputError

__all__ = ["IMAGE_SUFFIXES", "LAYOUT", "class_folders", "find_images", "image_names", "is_image_name"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LAYOUT = "an image folder looks like train/<class>/<image>.jpg and val/<class>/<image>.jpg"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: by its suffix; hidden files, such as ``._0.png``, do not."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def image_names(folder: Path) -> List[str]:
    """The paths of all images below ``folder``, at any depth, relative to it and sorted.

    Hidden folders are passed over, such as ``.ipynb_checkpoints``; links are followed.
    """
    return sorted(_below(str(folder), "", set()))


def _below(folder: str, prefix: str, above: set) -> Iterator[str]:
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_image_name(entry.name) and entry.is_file():
                yield prefix + entry.name
            elif entry.is_dir():
                folders.append(entry.name)
    if not folders:
        return
    above = above | {os.path.realpath(folder)}
    for name in folders:
        path = os.path.join(folder, name)
        if os.path.realpath(path) not in above:  # a link to a folder around it would never end
            yield from _below(path, f"{prefix}{name}/", above)


def class_folders(root: Path) -> List[str]:
    """The names of the class folders in ``root``, in the order of their labels; hidden ones are passed over.

    Raises:
        InputError: ``root`` is missing or empty, or a class in it has no images.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: set data_dir and the name of its split; {LAYOUT}.")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{root} has no class folders: {LAYOUT}.")
    for name in names:
        if next(_below(str(root / name), "", set()), None) is None:
            raise InputError(
                f"class folder {root / name} has no images: add {', '.join(IMAGE_SUFFIXES)} files or remove it."
            )
    return names


def find_images(given: Path) -> List[str]:
    """The image files that a path, a folder (with all below it), a glob or ``samples`` stands for.

    ``samples`` are the two photographs that scikit-learn brings.

    Raises:
        InputError: there are none.
    """
    if given.is_file():
        return [str(given)]
    if given.is_dir():
        found = [str(given / name) for name in image_names(given)]
    elif str(given) == "samples":
        from sklearn.datasets import load_sample_images

        found = load_sample_images().filenames
    else:
        found = sorted(path for path in glob.glob(str(given), recursive=True) if os.path.isfile(path))
    if not found:
        raise InputError(f"no image at {given}: give a file, a folder with images, a glob in quotes, or samples.")
    return found

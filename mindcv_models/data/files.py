"""Which files of a folder are images."""

import glob
import os
from collections import Counter
from pathlib import Path
from typing import FrozenSet, Iterator, List, Optional

from ..errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUT",
    "class_folders",
    "find_images",
    "free_name",
    "has_images",
    "image_names",
    "is_image_name",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LAYOUT = "an image folder looks like train/<class>/<image>.jpg and val/<class>/<image>.jpg"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: by its suffix; hidden files, such as ``._0.png``, do not."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def image_names(folder: Path, left_out: Optional[Counter] = None) -> List[str]:
    """The paths of all images below ``folder``, at any depth, relative to it and sorted.

    Hidden files and folders are passed over, such as ``.ipynb_checkpoints``; links are followed.

    Args:
        left_out: counts what else is there, by suffix or by what it is.
    """
    return sorted(_below(str(folder), "", frozenset(), Counter() if left_out is None else left_out))


def has_images(folder: Path) -> bool:
    """Whether there is an image below ``folder``; it is not searched further than to the first one."""
    return next(_below(str(folder), "", frozenset(), Counter()), None) is not None


def _below(folder: str, prefix: str, above: FrozenSet[str], left_out: Counter) -> Iterator[str]:
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                left_out["hidden"] += 1
            elif entry.is_dir():
                folders.append(entry.name)
            elif not entry.is_file():
                left_out["broken links" if entry.is_symlink() else "pipes or devices"] += 1
            elif is_image_name(entry.name):
                yield prefix + entry.name
            else:
                left_out[os.path.splitext(entry.name)[1].lower() or "no suffix"] += 1
    if folders:
        above = above | {os.path.realpath(folder)}
    for name in folders:
        path = os.path.join(folder, name)
        if os.path.realpath(path) not in above:  # a link to a folder around it would never end
            yield from _below(path, f"{prefix}{name}/", above, left_out)


def class_folders(root: Path, empty: bool = False) -> List[str]:
    """The sorted names of the class folders in ``root``; hidden ones are passed over.

    Args:
        empty: allow classes without images.

    Raises:
        InputError: ``root`` is missing or empty, a class in it has no images, or a name is no text.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}: {_advice(root.parent)}.")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{root} has no class folders: {LAYOUT}.")
    for name in names:
        if name != "".join(name.encode("utf-8", "replace").decode().splitlines()):
            raise InputError(f"class folder {name!a} in {root} is not named in UTF-8, on one line: rename it.")
        if not empty and not has_images(root / name):
            raise InputError(
                f"class folder {root / name} has no images: add {', '.join(IMAGE_SUFFIXES)} files or remove it."
            )
    return names


def _advice(above: Path) -> str:
    """What to do where ``above`` has no folder of a split."""
    try:
        folders = [entry.path for entry in os.scandir(above) if entry.is_dir() and not entry.name.startswith(".")]
        if any(is_image_name(name) for folder in folders for name in os.listdir(folder)):
            return f"{above} has class folders itself; use --val_ratio to split it, or give the folder above it"
    except OSError:
        pass
    return f"set data_dir and the name of its split; {LAYOUT}"


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


def free_name(folder: Path, path: str) -> Path:
    """Where the picture of an image goes: its own name, with a number if two images have the same."""
    stem, number = Path(path).stem, 1
    target = folder / f"{stem}.png"
    while target.exists():
        number += 1
        target = folder / f"{stem}_{number}.png"
    return target

"""A flat folder of classes, split into training and validation images once and for all."""

import json
import posixpath
from pathlib import Path
from typing import Dict, List

import numpy as np

from ..data.files import class_folders, image_names
from ..distributed import World
from ..errors import InputError
from ..files import read_json, write_text
from .options import ImageFolder

__all__ = ["check_split", "load_or_create_split", "read_split", "split_images"]

LARGEST_FILE = 8 << 30  # bytes


def load_or_create_split(options: ImageFolder, world: World) -> str:
    """The path of the split file that this run uses; rank 0 writes ``split.json`` in ``ckpt_save_dir`` at first.

    A split that is there stays, so that a resumed run validates on images that it has never trained on.

    Raises:
        InputError: the folder is not flat, a class has one image only, or the split there was made otherwise.
    """
    path = Path(options.ckpt_save_dir or "./ckpt", "split.json")
    made_by = {"val_ratio": options.val_ratio, "seed": options.seed}
    if world.is_main and not path.exists():
        root = Path(options.data_dir)
        for split in (options.train_split, options.val_split):
            if (root / split).is_dir():
                raise InputError(
                    f"val_ratio splits a folder of class folders, but {root} has a folder {split!r}: leave val_ratio "
                    "out to use it, or point data_dir to the class folders."
                )
        write_text(path, json.dumps({**made_by, **split_images(root, options.val_ratio, options.seed)}, indent=0))
    world.barrier()
    found = _read(path)
    if any(found.get(name) != value for name, value in made_by.items()):
        raise InputError(
            f"{path} is a split with val_ratio {found.get('val_ratio')} and seed {found.get('seed')}, but this run has "
            f"{options.val_ratio} and {options.seed}: use those, or another ckpt_save_dir."
        )
    return str(path)


def split_images(root: Path, val_ratio: float, seed: int) -> Dict[str, List[str]]:
    """``train`` and ``val``: paths below ``root``, each class in the same proportion and with one image in each.

    Raises:
        InputError: a class has fewer than two images.
    """
    rng = np.random.default_rng(seed)
    train, val = [], []
    for folder in class_folders(root):
        names = [f"{folder}/{name}" for name in image_names(root / folder)]
        if len(names) < 2:
            raise InputError(f"class folder {root / folder} has one image, which cannot be split: add another one.")
        count = min(max(round(val_ratio * len(names)), 1), len(names) - 1)
        chosen = set(rng.permutation(len(names))[:count].tolist())
        val += [name for i, name in enumerate(names) if i in chosen]
        train += [name for i, name in enumerate(names) if i not in chosen]
    return {"train": train, "val": val}


def check_split(options: ImageFolder) -> None:
    """Refuse a split whose images are not all there, or in both of its parts.

    Raises:
        InputError: the split file cannot be read, names a file outside of data_dir or in a roundabout way, an image in
            it is gone, or is trained on and validated.
    """
    for split in (options.train_split, options.val_split):
        for name in read_split(options, split):
            # One spelling for each image: "a//0.png" would be another one than "a/0.png", and in no or in both parts.
            if name.startswith(("/", "..")) or name != posixpath.normpath(name) or "/" not in name:
                raise InputError(f"{options.split_file} has {name!r}, which is not <class>/<image> below data_dir.")
            if not Path(options.data_dir, name).is_file():
                raise InputError(
                    f"{options.split_file} has {name}, which is not in {options.data_dir}: restore it, or set data_dir "
                    "to the folder that was split."
                )
    parts = _read(Path(options.split_file))
    both = set(parts["train"]) & set(parts["val"])
    if both:
        raise InputError(
            f"{options.split_file} has {min(both)} in both parts: validation must not see what is trained on."
        )


def read_split(options: ImageFolder, split: str) -> List[str]:
    """The paths, below ``data_dir``, of a split's images."""
    return _read(Path(options.split_file))["train" if split == options.train_split else "val"]


def _read(path):
    found = read_json(path, "split", LARGEST_FILE)
    try:
        return {**found, **{split: [str(name) for name in found[split]] for split in ("train", "val")}}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the split {path} ({type(error).__name__}): give split_file the split.json that train.py "
            "wrote with val_ratio."
        ) from error

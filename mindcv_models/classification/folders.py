"""Checks of what a run reads, before anything is built.

MindCV would train on wrong labels, or fail far from the cause.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import List, Optional

import numpy as np
from tqdm import tqdm

from ..data.embedded import write_embedded
from ..data.images import UnreadableImageError, decode
from ..data.loader import threads
from ..data.scenes import write_single_digits
from ..distributed import World
from ..errors import InputError
from ..files import atomic_folder, remove_partials
from .images import STANDARD_DATASETS, list_images
from .labels import check_classes, class_order, run_classes, split_root
from .options import ImageFolder
from .split import check_split, load_or_create_split

__all__ = ["class_names", "find_bad_images", "prepare", "write_digits"]

logger = logging.getLogger(__name__)


def prepare(options: ImageFolder, world: World, training: bool) -> ImageFolder:
    """The options with ``data_dir``, ``split_file`` and ``num_classes`` settled, after checking the image folders.

    Rank 0 writes the embedded data set if it is asked for and not there yet.

    Raises:
        InputError: a folder is missing, empty or disagrees with ``num_classes`` or with the other split's classes.
    """
    options = write_embedded(options, EMBEDDED, world)
    if options.val_ratio is not None and not options.split_file:
        if not training:
            raise InputError("val_ratio splits for training: give --split_file the split.json in that run's folder.")
        options = replace(options, split_file=load_or_create_split(options, world))
    if options.split_file:
        check_split(options)
    splits = [options.train_split] if training else [options.val_split]
    if training and options.val_while_train:
        splits.append(options.val_split)
    if not training and not options.class_map:
        paths = options.ckpt_path if isinstance(options.ckpt_path, (list, tuple)) else [options.ckpt_path]
        options = replace(options, class_map=run_classes([path for path in paths if path]))
    classes = _number_of_classes(options, splits[0])
    _check_data(options, splits, classes, training, world)
    return replace(options, num_classes=classes)


def _check_data(options, splits, classes, training, world):
    """Refuse what cannot be learnt or labelled; say what is missing, left out, or cannot be decoded."""
    if training and classes < 2:
        where = split_root(options, splits[0])
        if options.class_map and os.path.isfile(options.class_map):
            where = f"class_map {options.class_map}, which must have a name a line,"
        raise InputError(f"{where} has one class, so that there is nothing to learn: add another one.")
    for split in splits:
        if options.dataset.lower() not in STANDARD_DATASETS:
            check_classes(options, split, training)
        if options.skip_bad_images and world.is_main:
            bad = find_bad_images(options, split)
            logger.info("%s: %d images cannot be decoded%s", split, len(bad), "".join(f"\n  {path}" for path in bad))


def class_names(options: ImageFolder, split: str) -> Optional[List[str]]:
    """The classes of an image folder, in the order of their labels; None for MindCV's standard data sets.

    Raises:
        InputError: the folder is missing or empty, or a class in it has no images.
    """
    return None if options.dataset.lower() in STANDARD_DATASETS else class_order(options, split)


def _number_of_classes(options: ImageFolder, split: str) -> int:
    """``num_classes``, checked against the classes of the image folder if there is one, and counted if not given."""
    names = class_names(options, split)
    found = len(names) if names is not None else {"cifar100": 100}.get(options.dataset.lower(), 10)
    if options.num_classes in (None, found):
        return found
    if options.class_map:
        raise InputError(
            f"num_classes is {options.num_classes}, but {options.class_map} has {found} names: use --num_classes "
            f"{found}, or give class_map the names of the network's classes in the order of their labels."
        )
    if split == options.train_split or found > options.num_classes:
        raise InputError(
            f"num_classes is {options.num_classes}, but {split_root(options, split)} has {found} classes: "
            f"use --num_classes {found}, or leave it out."
        )
    raise InputError(
        f"num_classes is {options.num_classes}, but {split_root(options, split)} has {found} classes, whose labels "
        f"cannot be told without the others: give --class_map a text file with the {options.num_classes} names in the "
        "order of their labels, such as the classes.txt of the run."
    )


def find_bad_images(options: ImageFolder, split: str) -> List[str]:
    """The paths of a split's images that cannot be decoded, found by decoding each one once."""
    if options.dataset.lower() in STANDARD_DATASETS:
        return []
    paths = list_images(options, split).items
    with ThreadPoolExecutor(threads(options.num_parallel_workers)) as pool:
        decoded = pool.map(_can_be_decoded, paths)
        good = list(tqdm(decoded, desc=f"checking {split}", total=len(paths), unit="img", disable=None))
    return [path for path, is_good in zip(paths, good) if not is_good]


def _can_be_decoded(path: str) -> bool:
    try:
        decode(path)
    except UnreadableImageError:
        return False
    return True


def write_digits(folder: str) -> Path:
    """Write scikit-learn's handwritten digits as an image folder, unless it is there: 1,400 to train, 397 to validate.

    1,797 real 8x8 images of Alpaydin and Kaynak (UCI, 1998), enlarged to 64x64; the split is fixed and keeps the
    classes' shares.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    root = Path(folder)
    remove_partials(root.parent, root.name)
    if (root / "train").is_dir() and (root / "val").is_dir():
        return root
    digits = load_digits()
    index = np.arange(len(digits.target))
    splits = train_test_split(index, train_size=1400, random_state=0, stratify=digits.target)
    with atomic_folder(root) as partial:
        for i, split in [(i, split) for split, members in zip(("train", "val"), splits) for i in members]:
            path = partial / split / str(digits.target[i]) / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[i] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return root


EMBEDDED = {"digits": write_digits, "digits_scenes": write_single_digits}

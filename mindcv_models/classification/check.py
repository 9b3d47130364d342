"""What ``--check_data`` finds in class folders."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import List

from ..data.check import Part, inspect
from ..data.files import class_folders
from ..data.images import decode
from ..distributed import ONE_DEVICE
from ..errors import InputError
from .folders import prepare
from .images import STANDARD_DATASETS, list_images
from .labels import class_order, split_root
from .loader import create_train_loader
from .options import TrainOptions

__all__ = ["look_at_data"]


def look_at_data(options: TrainOptions) -> List[Part]:
    """The training and the validation images, each decoded once; nothing is written but the embedded data set.

    Raises:
        InputError: the data is one of MindCV's standard data sets.
    """
    if options.dataset.lower() in STANDARD_DATASETS:
        raise InputError(f"check_data looks at folders of images, but dataset is {options.dataset}: leave it out.")
    with tempfile.TemporaryDirectory() as folder:
        if not Path(options.ckpt_save_dir or "./ckpt", "split.json").exists():
            options = replace(options, ckpt_save_dir=folder)  # a split by val_ratio is made for this look only
        train = Part(options.train_split)
        prepared = train.attempt(lambda: prepare(replace(options, skip_bad_images=False), ONE_DEVICE, training=True))
        if prepared is not None:
            train.attempt(lambda: create_train_loader(prepared))
        elif options.val_ratio is not None:  # without a split there is nothing more to look at
            return [train]
        options = prepared or options
        parts = [train]
        if options.val_while_train or options.split_file or split_root(options, options.val_split).is_dir():
            parts.append(Part(options.val_split))
        for part in parts:
            _look(part, options)
        return parts


def _look(part: Part, options: TrainOptions) -> None:
    def classes():
        try:
            return class_order(options, part.name)
        except InputError:  # such as a class without images: a fault already; the others are looked at all the same
            return class_folders(split_root(options, part.name), empty=True)

    names = part.attempt(classes)
    images = names and part.attempt(lambda: list_images(options, part.name, names))
    if not images:
        return
    counts = Counter(images.labels.tolist())
    part.images = len(images)
    part.counts = {name: counts[label] for label, name in enumerate(names)}
    part.missing = [name for name, count in part.counts.items() if not count]
    part.left_out = {f"{kind} files" if kind.startswith(".") else kind: n for kind, n in images.left_out.items()}

    def size(index, data):
        return decode(images.name(index), options.upright, data).shape[:2]

    part.sizes = inspect(part, images, size, options.num_parallel_workers)

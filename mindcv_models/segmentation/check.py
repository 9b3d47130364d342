"""What ``--check_data`` finds in folders of pictures and label maps."""

from dataclasses import replace
from pathlib import Path
from typing import List

import numpy as np

from ..data.check import Part, inspect
from ..distributed import ONE_DEVICE
from .folders import class_list, list_pictures, prepare
from .options import TrainOptions

__all__ = ["look_at_data"]


def look_at_data(options: TrainOptions) -> List[Part]:
    """The training and the validation pictures, each read once; the share of each class is that of its pixels."""
    train, val = Part("train"), Part("val")
    prepared = train.attempt(lambda: prepare(replace(options, val_while_train=False), ONE_DEVICE, training=True))
    if prepared is None:
        return [train]
    options = replace(prepared, val_while_train=options.val_while_train)
    names = class_list(options) or [str(number) for number in range(options.num_classes)]
    parts = [train]
    if options.val_while_train or Path(options.data_dir, options.val_images).is_dir():
        parts.append(val)
    for part in parts:
        _look(part, options, names)
    return parts


def _look(part: Part, options: TrainOptions, names: List[str]) -> None:
    pictures = part.attempt(lambda: list_pictures(options, part.name == "train"))
    if pictures is None:
        return
    part.images = len(pictures)

    def note(index, data):
        picture, labels = pictures.read(index, data)
        pixels = np.bincount(labels[labels >= 0].reshape(-1), minlength=len(names))
        return picture.shape[:2], pixels[: len(names)], labels.size

    notes = inspect(part, pictures, note, options.num_parallel_workers)
    part.sizes = [size for size, _, _ in notes]
    pixels = sum((counts for _, counts, _ in notes), np.zeros(len(names), np.int64))
    total = max(sum(count for _, _, count in notes), 1)
    part.counts = {name: f"{100 * count / total:.2f} % of the pixels" for name, count in zip(names, pixels)}
    part.missing = [name for name, count in zip(names, pixels) if not count]
    ignored = f"{100 * (1 - pixels.sum() / total):.2f} %" if notes else ""
    part.left_out = {"pixels that count nowhere": ignored}

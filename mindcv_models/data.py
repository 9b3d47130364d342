"""Data sets and their transforms, over MindCV's.

An image folder is checked before anything is built: MindCV would train on wrong labels, or fail far from the cause.
"""

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import mindspore.dataset as ds
import numpy as np
from mindcv.data import create_dataset, create_loader, create_transforms
from mindcv.models.registry import get_pretrained_cfg
from mindspore.dataset import transforms, vision
from mindspore.dataset.core.config import ErrorSamplesMode
from tqdm import tqdm

from .config import IMAGENET_MEAN, IMAGENET_STD, Options
from .distributed import World
from .errors import InputError

__all__ = [
    "EvalTransform",
    "batches",
    "create_eval_loader",
    "create_train_loader",
    "find_bad_images",
    "prepare",
    "write_digits",
]

logger = logging.getLogger(__name__)

STANDARD_DATASETS = ("mnist", "cifar10", "cifar100")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_BAD_IMAGES = {"raise": ErrorSamplesMode.RETURN, "replace": ErrorSamplesMode.REPLACE, "skip": ErrorSamplesMode.SKIP}
LAYOUT = "an image folder looks like train/<class>/<image>.jpg and val/<class>/<image>.jpg"


@dataclass(frozen=True)
class EvalTransform:
    """How an image becomes the network's input for evaluation; ``mean`` and ``std`` on the scale 0 to 255."""

    image_resize: int
    crop_pct: float
    interpolation: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]

    @classmethod
    def resolve(cls, options: Options) -> "EvalTransform":
        """The model's own transform, with what the options override."""
        own = get_pretrained_cfg(options.model)
        of_model = cls(
            image_resize=own.get("input_size", (3, 224, 224))[-1],
            crop_pct=own.get("crop_pct", 0.875),
            interpolation=own.get("interpolation", "bilinear"),
            mean=tuple(255 * m for m in own["mean"]) if "mean" in own else IMAGENET_MEAN,
            std=tuple(255 * s for s in own["std"]) if "std" in own else IMAGENET_STD,
        )
        given = {name: getattr(options, name) for name in cls.__dataclass_fields__}
        return cls(**{name: getattr(of_model, name) if value is None else value for name, value in given.items()})


def prepare(options: Options, world: World, training: bool) -> Options:
    """The options with ``data_dir`` and ``num_classes`` settled, after checking the image folders.

    Rank 0 writes the embedded data set if it is asked for and not there yet.

    Raises:
        InputError: a folder is missing, empty or disagrees with ``num_classes`` or with the other split's classes.
    """
    if options.dataset.lower() == "digits":
        folder = "data/digits" if options.data_dir in ("", "./") else options.data_dir
        if world.is_main:
            write_digits(folder)
        world.barrier()
        options = replace(options, data_dir=folder)
    splits = [options.train_split] if training else [options.val_split]
    if options.val_while_train and training:
        splits.append(options.val_split)
    classes = _number_of_classes(options, splits[0])
    if Path(options.data_dir, options.train_split).is_dir() and options.val_split in splits:
        _check_splits_agree(options)
    if options.skip_bad_images and world.is_main:
        for split in splits:
            bad = find_bad_images(options, split)
            logger.info("%s: %d images cannot be decoded%s", split, len(bad), "".join(f"\n  {path}" for path in bad))
    return replace(options, num_classes=classes)


def create_train_loader(options: Options, rank: int = 0, ranks: int = 1):
    """Batches ``(images (B, C, H, W), labels (B,) or (B, classes))`` of this rank's share of the training images."""
    own = EvalTransform.resolve(options)
    dataset = _create_dataset(
        options,
        options.train_split,
        shuffle=options.shuffle,
        num_samples=options.num_samples,
        num_aug_repeats=options.aug_repeats if options.aug_repeats > 1 else 0,
        **_shard(rank, ranks),
    )
    jitter = options.color_jitter * 3 if len(options.color_jitter or ()) == 1 else options.color_jitter
    transform = create_transforms(
        dataset_name=_transforms_of(options),
        is_training=True,
        image_resize=own.image_resize,
        scale=options.scale,
        ratio=options.ratio,
        hflip=options.hflip,
        vflip=options.vflip,
        color_jitter=jitter,
        auto_augment=options.auto_augment,
        interpolation=own.interpolation,
        mean=own.mean,
        std=own.std,
        re_prob=options.re_prob,
        re_scale=options.re_scale,
        re_ratio=options.re_ratio,
        re_value=options.re_value,
        re_max_attempts=options.re_max_attempts,
    )
    mixes = options.mixup + options.cutmix > 0
    one_hot = transforms.OneHot(options.num_classes) if options.loss.upper() == "BCE" and not mixes else None
    return create_loader(
        dataset=dataset,
        batch_size=options.batch_size,
        drop_remainder=options.drop_remainder,
        is_training=True,
        mixup=options.mixup,
        cutmix=options.cutmix,
        cutmix_prob=options.cutmix_prob,
        num_classes=options.num_classes,
        transform=transform,
        target_transform=one_hot,
        num_parallel_workers=_workers(options),
    )


def create_eval_loader(options: Options, rank: int = 0, ranks: int = 1):
    """Batches of this rank's share of the validation images, each image on exactly one rank, the last one short.

    Returns:
        The loader, or None if there are fewer images than ranks and none is left for this one; and the number of
        images on all ranks together.
    """
    dataset = _create_dataset(options, options.val_split, shuffle=False, **_shard(rank, ranks))
    total = _create_dataset(options, options.val_split, shuffle=False).get_dataset_size()
    own = EvalTransform.resolve(options)
    # A sharded data set is padded by repeating images: rank r holds images r, r + ranks, ..., then some again.
    share = len(range(rank, total, ranks))
    if share == 0:
        return None, total
    transform = create_transforms(
        dataset_name=_transforms_of(options),
        is_training=False,
        image_resize=own.image_resize,
        crop_pct=own.crop_pct,
        interpolation=own.interpolation,
        mean=own.mean,
        std=own.std,
    )
    loader = create_loader(
        dataset=dataset.take(share),
        batch_size=options.batch_size,
        drop_remainder=False,
        is_training=False,
        transform=transform,
        num_parallel_workers=_workers(options),
    )
    return loader, total


def _class_names(options: Options, split: str) -> Optional[List[str]]:
    """The classes of an image folder, in the order of their labels; None for MindCV's standard data sets.

    Raises:
        InputError: the folder is missing or empty, or a class in it has no images.
    """
    if options.dataset.lower() in STANDARD_DATASETS:
        return None
    root = Path(options.data_dir, split)
    if not root.is_dir():
        raise InputError(f"no folder {root}: set data_dir and the name of its split; {LAYOUT}.")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not names:
        raise InputError(f"{root} has no class folders: {LAYOUT}.")
    for name in names:
        if not any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root / name)):
            raise InputError(
                f"class folder {root / name} has no images: add {', '.join(IMAGE_SUFFIXES)} files or remove it."
            )
    return names


def _number_of_classes(options: Options, split: str) -> int:
    """``num_classes``, checked against the image folder if there is one, and read from it if not given."""
    names = _class_names(options, split)
    found = len(names) if names is not None else {"cifar100": 100}.get(options.dataset.lower(), 10)
    if options.num_classes not in (None, found):
        raise InputError(
            f"num_classes is {options.num_classes}, but {Path(options.data_dir, split)} has {found} classes: "
            f"use --num_classes {found}, or leave it out."
        )
    return found


def _check_splits_agree(options: Options) -> None:
    """Labels are positions among the sorted class folders, so both splits need the same ones."""
    train, val = (_class_names(options, split) for split in (options.train_split, options.val_split))
    if train != val:
        odd = sorted(set(train) ^ set(val))[0]
        raise InputError(
            f"{options.train_split} has {len(train)} classes and {options.val_split} {len(val)}; {odd!r} is in one of "
            "them only: give both the same class folders."
        )


def find_bad_images(options: Options, split: str) -> List[str]:
    """The paths of a split's images that cannot be decoded, found by decoding each one once."""
    if options.dataset.lower() in STANDARD_DATASETS:
        return []
    paths = sorted(p for p in Path(options.data_dir, split).glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
    decode = vision.Decode()
    bad = []
    for path in tqdm(paths, desc=f"checking {split}", unit="img", disable=None):
        try:
            decode(np.fromfile(path, np.uint8))
        except (RuntimeError, ValueError, TypeError):
            bad.append(str(path))
    return bad


def batches(loader, epochs: int = 1, bad_images: str = "raise"):
    """Iterators over ``loader``, one an epoch, from a single pipeline that keeps running between them.

    Args:
        bad_images: what happens at an image that cannot be decoded: ``"raise"``, ``"replace"`` it by another one, so
            that each rank keeps its number of steps, or ``"skip"`` it, so that each image is counted once.

    Raises:
        InputError: at such an image, naming it.
    """
    ds.config.set_error_samples_mode(_BAD_IMAGES[bad_images])
    iterator = loader.create_tuple_iterator(num_epochs=epochs)
    for _ in range(epochs):
        yield _name_bad_images(iterator)


def _name_bad_images(iterator):
    try:
        yield from iterator
    except RuntimeError as error:
        found = re.search(r"corresponding data file is: (.+?)\. ", str(error))
        if not found:
            raise
        raise InputError(
            f"cannot decode image {found[1]}: replace or remove it, or use --skip_bad_images True to go on without it."
        ) from error


def write_digits(folder: str) -> Path:
    """Write scikit-learn's handwritten digits as an image folder, unless it is there: 1,400 to train, 397 to validate.

    1,797 real 8x8 images of Alpaydin and Kaynak (UCI, 1998), enlarged to 64x64; the split is fixed and keeps the
    classes' shares.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    root = Path(folder)
    if (root / "train").is_dir() and (root / "val").is_dir():
        return root
    digits = load_digits()
    index = np.arange(len(digits.target))
    splits = train_test_split(index, train_size=1400, random_state=0, stratify=digits.target)
    aside = root.with_name(f".{root.name}.{os.getpid()}.partial")
    for split, members in zip(("train", "val"), splits):
        for i in members:
            path = aside / split / str(digits.target[i]) / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[i] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(path)
    aside.replace(root)
    return root


def _create_dataset(options: Options, split: str, **sharding):
    name = options.dataset.lower()
    if name in STANDARD_DATASETS and split == options.val_split:
        split = "test"
    return create_dataset(
        name=name if name in STANDARD_DATASETS else "",
        root=options.data_dir,
        split=split,
        num_parallel_workers=_workers(options),
        download=options.dataset_download,
        **sharding,
    )


def _transforms_of(options: Options) -> str:
    name = options.dataset.lower()
    return name if name in STANDARD_DATASETS else ""


def _shard(rank: int, ranks: int) -> Dict[str, int]:
    return {"num_shards": ranks, "shard_id": rank} if ranks > 1 else {}


def _workers(options: Options) -> int:
    return min(options.num_parallel_workers, os.cpu_count() or 1)

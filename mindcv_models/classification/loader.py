"""Batches of images and labels, for training and for validation."""

import logging
from typing import Dict, Optional, Tuple, Union

import numpy as np

from ..data.images import Picture, UnreadableImageError
from ..data.loader import Loader, stack, threads
from ..data.order import EpochOrder, ShareOrder, StepsOrder
from ..errors import InputError
from .images import STANDARD_DATASETS, ImageSet, list_images
from .mixing import Mixing, one_hot
from .options import TrainOptions, ValidateOptions
from .transforms import EvalTransform, SmallImageTransform, TrainTransform

__all__ = ["EvalSample", "create_eval_loader", "create_train_loader"]

logger = logging.getLogger(__name__)


class _TrainSample:
    """From what an ImageSet reads to the image ``(C, H, W)`` float32 and its label."""

    def __init__(self, transform, upright: bool):
        self.transform = transform
        self.upright = upright

    def __call__(self, raw, rng):
        item, label = raw
        return self.transform(Picture(item, self.upright) if isinstance(item, str) else item, rng), label


class EvalSample:
    """From what an ImageSet reads to the image ``(C, H, W)`` float32, its label, and whether it could be decoded.

    Args:
        transform: from the image to the network's input.
        bad: takes the reasons of images that cannot be decoded, by label; these are black. None raises at them.
        blank: such an image ``(C, H, W)``.
    """

    def __init__(self, transform, upright: bool, bad: Optional[Dict[int, str]], blank: Tuple[int, int, int]):
        self.transform = transform
        self.upright = upright
        self.bad = bad
        self.blank = blank

    def __call__(self, raw, _rng):
        item, label = raw
        try:
            return self.transform(Picture(item, self.upright) if isinstance(item, str) else item), label, True
        except UnreadableImageError as error:
            if self.bad is None:
                raise
            self.bad[int(label)] = error.reason
            return np.zeros(self.blank, np.float32), label, False


class _Collate:
    """Images ``(B, C, H, W)`` float32, mixed or not, and labels ``(B,)`` int32 or ``(B, classes)`` float32.

    Args:
        classes: makes labels ones and zeros where they are not mixed; None leaves them numbers.
    """

    def __init__(self, mixing: Optional[Mixing], classes: Optional[int]):
        self.mixing = mixing
        self.classes = classes

    def __call__(self, samples, rng):
        images, labels = stack(samples, rng)
        if self.mixing is not None:
            return self.mixing(images, labels, rng)
        return images, one_hot(labels, self.classes) if self.classes else labels


def create_train_loader(options: TrainOptions, rank: int = 0, ranks: int = 1) -> Loader:
    """Batches ``(images (B, C, H, W), labels (B,) or (B, classes))`` of this rank's share of the training images.

    Raises:
        InputError: an augmentation that is not known, or fewer images than make a batch.
    """
    images = list_images(options, options.train_split)
    _say_what_is_left_out(images, options.train_split, rank)
    if options.num_samples is not None and options.num_samples < len(images):
        images = images.subset(options.num_samples, options.seed)
    weights = 1 / np.bincount(images.labels)[images.labels] if options.class_balanced_sampling else None
    views = max(options.aug_repeats, 1)
    order = EpochOrder(len(images), options.seed, options.shuffle, views, weights, rank, ranks)
    small = options.dataset.lower() in STANDARD_DATASETS
    mixes = options.mixup + options.cutmix > 0
    loader = Loader(
        images,
        StepsOrder(order, options.steps_per_epoch, options.batch_size) if options.steps_per_epoch else order,
        _TrainSample(SmallImageTransform(options) if small else TrainTransform(options), options.upright),
        options.batch_size,
        _Collate(
            Mixing(options.mixup, options.cutmix, options.cutmix_prob, options.num_classes) if mixes else None,
            options.num_classes if options.loss == "BCE" else None,
        ),
        last="drop" if options.drop_remainder else "keep",
        replace_bad=options.skip_bad_images,
        workers=threads(options.num_parallel_workers),
    )
    if not len(loader):
        raise InputError(
            f"batch_size is {options.batch_size}, but there are only {len(images)} training images for {ranks} ranks: "
            "use a smaller batch_size, or drop_remainder False."
        )
    _check_last_batch(options, loader)
    return loader


def _check_last_batch(options, loader):
    """Batch normalisation over a single number has no variance; networks with a stride of 32 come to that."""
    alone = not options.drop_remainder and options.batch_size > 1 and len(loader.order) % options.batch_size == 1
    if alone and max(EvalTransform.resolve(options).size) <= 32:
        raise InputError(
            f"the last batch of an epoch has one image (batch_size {options.batch_size}), which batch normalisation "
            "cannot use at 32 x 32 pixels: set drop_remainder True, or change batch_size or image_resize."
        )


def _say_what_is_left_out(images: ImageSet, split: str, rank: int) -> None:
    if images.left_out and not rank:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(images.left_out.items()))
        logger.info("%s: %d images; left out of its class folders: %s", split, len(images), kinds)


def create_eval_loader(options: Union[TrainOptions, ValidateOptions], rank: int = 0, ranks: int = 1) -> Loader:
    """Batches of this rank's share of the validation images, each image on exactly one rank.

    Batches are ``(images (B, C, H, W) float32, labels (B,) int32, decoded (B,) bool, valid (B,) bool)``, the last one
    filled up with zeros, whose ``valid`` is False; ``decoded`` is False for what ``skip_bad_images`` passes over.
    """
    images = list_images(options, options.val_split)
    _say_what_is_left_out(images, options.val_split, rank)
    if options.dataset.lower() in STANDARD_DATASETS:
        transform = SmallImageTransform(options, training=False)
    else:
        transform = EvalTransform.resolve(options)
    blank = (3, *transform.size) if isinstance(transform, EvalTransform) else ()
    return Loader(
        images,
        ShareOrder(len(images), rank, ranks),
        EvalSample(transform, options.upright, {} if options.skip_bad_images else None, blank),
        options.batch_size,
        last="pad",
        workers=threads(options.num_parallel_workers),
    )

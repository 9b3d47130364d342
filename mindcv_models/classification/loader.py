"""Training batches of images and labels."""

from typing import Optional

import numpy as np
from mindspore import Tensor

from ..data.loader import Loader, stack, threads
from ..data.order import EpochOrder, StepsOrder
from ..errors import InputError
from .images import STANDARD_DATASETS, list_images
from .mixing import Mixing, one_hot
from .options import TrainOptions
from .transforms import SmallImageTransform, TrainTransform

__all__ = ["TrainLoader", "create_train_loader"]


class TrainLoader(Loader):
    """A :class:`~mindcv_models.data.loader.Loader` whose batches are tensors."""

    def get_dataset_size(self) -> int:
        """Steps an epoch, by the name that MindSpore gives it."""
        return len(self)

    def epoch(self, number: int = 1, start: int = 0):
        for batch in super().epoch(number, start):
            yield tuple(Tensor.from_numpy(array) for array in batch)


class _Sample:
    """An image and its label, from what an ImageSet reads: ``(C, H, W)`` float32 and int32."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, raw, rng):
        image, label = raw
        return self.transform(image, rng), label


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


def create_train_loader(options: TrainOptions, rank: int = 0, ranks: int = 1) -> TrainLoader:
    """Batches ``(images (B, C, H, W), labels (B,) or (B, classes))`` of this rank's share of the training images.

    Raises:
        InputError: an augmentation that is not known, or fewer images than make a batch.
    """
    images = list_images(options, options.train_split)
    if options.num_samples is not None and options.num_samples < len(images):
        images = images.some(options.num_samples, options.seed)
    weights = 1 / np.bincount(images.labels)[images.labels] if options.class_balanced_sampling else None
    views = max(options.aug_repeats, 1)
    order = EpochOrder(len(images), options.seed, options.shuffle, views, weights, rank, ranks)
    small = options.dataset.lower() in STANDARD_DATASETS
    mixes = options.mixup + options.cutmix > 0
    loader = TrainLoader(
        images,
        StepsOrder(order, options.steps_per_epoch, options.batch_size) if options.steps_per_epoch else order,
        _Sample(SmallImageTransform(options) if small else TrainTransform(options)),
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
    return loader

"""Validation batches, over MindCV's."""

import re
from typing import Dict

import mindspore.dataset as ds
from mindcv.data import create_dataset, create_loader, create_transforms
from mindspore.dataset.core.config import ErrorSamplesMode

from ..config import Options
from ..errors import InputError
from .images import STANDARD_DATASETS, workers
from .transforms import EvalTransform

__all__ = ["batches", "create_eval_loader"]

_BAD_IMAGES = {"raise": ErrorSamplesMode.RETURN, "replace": ErrorSamplesMode.REPLACE, "skip": ErrorSamplesMode.SKIP}


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
        num_parallel_workers=workers(options),
    )
    return loader, total


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


def _create_dataset(options: Options, split: str, **sharding):
    name = options.dataset.lower()
    if name in STANDARD_DATASETS and split == options.val_split:
        split = "test"
    return create_dataset(
        name=name if name in STANDARD_DATASETS else "",
        root=options.data_dir,
        split=split,
        num_parallel_workers=workers(options),
        download=options.dataset_download,
        **sharding,
    )


def _transforms_of(options: Options) -> str:
    name = options.dataset.lower()
    return name if name in STANDARD_DATASETS else ""


def _shard(rank: int, ranks: int) -> Dict[str, int]:
    return {"num_shards": ranks, "shard_id": rank} if ranks > 1 else {}

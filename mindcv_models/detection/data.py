"""From the options of detectors to data: the images of a split, and the loaders and transforms over them."""

import functools
import logging
from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from ..data.embedded import write_embedded
from ..data.loader import Loader, threads
from ..data.order import GroupedOrder, StepsOrder
from ..data.scenes import write_scenes
from ..distributed import World
from .coco import CocoSet, find_annotations, find_images, read_coco
from .options import CocoFolder, Scaling, TrainOptions
from .systems import system_of
from .transforms import Buckets, EvalTransform, Preparation

__all__ = ["eval_transform", "preparation", "read_split", "train_loader", "training_images", "with_data"]

logger = logging.getLogger(__name__)


def with_data(options: CocoFolder, world: World) -> CocoFolder:
    """The options with ``data_dir`` settled, where the embedded data set is if they ask for it."""
    return write_embedded(options, {"digits_scenes": write_scenes}, world)


def read_split(options: CocoFolder, part: str) -> CocoSet:
    """The images and annotations of a part: "train" or "val".

    Raises:
        InputError: see :func:`mindcv_models.detection.coco.read_coco`; or images are missing.
    """
    split, given = getattr(options, f"{part}_split"), getattr(options, f"{part}_annotations")
    path = find_annotations(given, options.data_dir, split)
    return _read(path, find_images(options.image_dir, given, options.data_dir, split), options.skip_bad_images)


@functools.lru_cache(maxsize=2)  # COCO's annotations take a while to read
def _read(path: Path, folder: Path, skip_missing: bool) -> CocoSet:
    data = read_coco(path, folder)
    for twin in data.twins():
        logger.warning("%s: %s, which stay classes of their own", path, twin)
    return data.present(skip_missing)


def training_images(options: TrainOptions) -> CocoSet:
    """The images that are trained on: as many as the options want, always the same ones."""
    data = read_split(options, "train").to_train()
    if options.num_samples is None or options.num_samples >= len(data):
        return data
    chosen = np.random.default_rng(options.seed).permutation(len(data))[: options.num_samples]
    return data.chosen(np.sort(chosen))


def train_loader(options: TrainOptions, world: World) -> Loader:
    """Batches of what the model's objective takes."""
    data, scale = training_images(options), tuple(options.train_scale or options.img_scale)
    buckets = Buckets(scale)
    groups = np.array([buckets.group(image) for image in data.images])
    order = GroupedOrder(groups, options.batch_size, options.seed, options.shuffle, world.rank, world.size)
    if options.steps_per_epoch:
        order = StepsOrder(order, options.steps_per_epoch, options.batch_size)
    transform = system_of(options.model).train_transform(options, preparation(options, scale), buckets, data)
    return Loader(
        data, order, transform, options.batch_size,
        replace_bad=options.skip_bad_images, workers=threads(options.num_parallel_workers),
    )  # fmt: skip


def eval_transform(options: Scaling) -> EvalTransform:
    """How an image is prepared to be searched."""
    return EvalTransform(preparation(options), Buckets(tuple(options.img_scale)), options.padding == "own")


def preparation(options: Scaling, scale: Optional[Tuple[int, int]] = None) -> Preparation:
    """How the options resize, to ``scale`` or theirs, and normalise."""
    return Preparation(scale or tuple(options.img_scale), *options.mean_and_std)

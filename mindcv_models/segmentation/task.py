"""Segmentation, as the scripts see it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Tuple

import numpy as np
from mindspore import Tensor, nn

from ..data.class_names import write_class_names
from ..data.loader import Loader, threads
from ..data.order import EpochOrder, StepsOrder
from ..distributed import World
from ..errors import InputError
from ..input_size import explain_size_errors
from ..training import Objective
from . import export, infer, validate
from .check import look_at_data
from .folders import class_list, list_pictures, prepare
from .objective import SegmentationObjective
from .options import InferOptions, TrainOptions, ValidateOptions
from .transforms import TrainTransform
from .validator import SegmentationValidator

__all__ = ["TASK"]


@dataclass
class TrainLoader(Loader):
    """A :class:`~mindcv_models.data.loader.Loader` whose batches are tensors.

    Args:
        later: what stands for ``sample`` after epoch ``last_paste``.
    """

    later: Optional[Callable] = None
    last_paste: int = 0

    def epoch(self, number: int = 1, start: int = 0):
        loader = replace(self, sample=self.later) if number > self.last_paste else self
        for batch in super(TrainLoader, loader).epoch(number, start):
            yield tuple(Tensor.from_numpy(array) for array in batch)


class Segmentation:
    """See :class:`mindcv_models.tasks.Task`."""

    train_options = TrainOptions
    validate_options = ValidateOptions
    infer_options = InferOptions
    export_options = export.ExportOptions
    look_at_data = staticmethod(look_at_data)
    validate = staticmethod(validate.run)
    infer = staticmethod(infer.run)
    export = staticmethod(export.run)

    def prepare(self, options: TrainOptions, world: World) -> TrainOptions:
        return prepare(options, world, training=True)

    def train_loader(self, options: TrainOptions, world: World) -> TrainLoader:
        """Images ``(B, 3, H, W)`` float32 and label maps ``(B, H, W)`` int32.

        Raises:
            InputError: fewer pictures than make a batch.
        """
        pictures = list_pictures(options, training=True)
        if options.num_samples is not None and options.num_samples < len(pictures):
            pictures = pictures.subset(options.num_samples, options.seed)
        order = EpochOrder(len(pictures), options.seed, options.shuffle, rank=world.rank, ranks=world.size)
        if options.steps_per_epoch:
            order = StepsOrder(order, options.steps_per_epoch, options.batch_size)
        plain = TrainTransform(
            options.crop_size, options.img_scale, options.ratio_range, options.hflip, options.photometric,
            *options.mean_and_std, options.rotation,
        )  # fmt: skip
        pasting = replace(
            plain, copy_paste=options.copy_paste, paste_margin=options.paste_margin, draw=pictures.draw
        )  # fmt: skip
        loader = TrainLoader(
            pictures, order, lambda raw, rng: pasting(*raw, rng), options.batch_size,
            last="drop" if options.drop_remainder else "keep", replace_bad=options.skip_bad_images,
            workers=threads(options.num_parallel_workers), later=lambda raw, rng: plain(*raw, rng),
            last_paste=options.paste_epochs or options.epoch_size,
        )  # fmt: skip
        if not len(loader):
            raise InputError(
                f"batch_size is {options.batch_size}, but there are only {len(pictures)} training pictures for "
                f"{world.size} ranks: use a smaller batch_size, or drop_remainder False."
            )
        return loader

    def objective(self, options: TrainOptions, network: nn.Cell) -> Objective:
        weights = options.class_weights
        if weights is not None and len(weights) != options.num_classes:
            raise InputError(
                f"class_weights has {len(weights)} numbers, but there are {options.num_classes} classes: give one each."
            )
        return SegmentationObjective(network, weights, options.dice_weight)

    def validator(self, options: TrainOptions, network: nn.Cell, world: World) -> SegmentationValidator:
        return SegmentationValidator(network, options, world)

    def example_batch(self, options: TrainOptions, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Images ``(B, 3, H, W)`` of noise and label maps ``(B, H, W)``."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((options.batch_size, options.in_channels, *size), np.float32)
        labels = rng.integers(0, options.num_classes, (options.batch_size, *size))
        return Tensor(images), Tensor(labels.astype(np.int32))

    def save_names(self, options: TrainOptions, folder: Path) -> None:
        names = class_list(options)
        if names:
            write_class_names(names, folder)

    def explain_errors(self, options: TrainOptions, objective: Objective) -> AbstractContextManager:
        size = tuple(options.crop_size)
        return explain_size_errors([(options.model, objective.network)], size, options.in_channels, "crop_size")


TASK = Segmentation()

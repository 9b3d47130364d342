"""Detection, as the scripts see it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Tuple

import numpy as np
from mindspore import Tensor, nn

from ..data.loader import Loader, threads
from ..distributed import World, on_every_rank
from ..errors import InputError
from ..files import write_text
from ..training import Objective
from . import export, infer, validate
from .anchors import retinanet_anchors
from .data import eval_transform, read_split, train_loader, write_embedded
from .objective import RetinaNetObjective
from .options import InferOptions, TrainOptions, ValidateOptions
from .validator import DetectionValidator

__all__ = ["TASK"]


class Detection:
    """See :class:`mindcv_models.tasks.Task`."""

    train_options = TrainOptions
    validate_options = ValidateOptions
    infer_options = InferOptions
    export_options = export.ExportOptions
    validate = staticmethod(validate.run)
    infer = staticmethod(infer.run)
    export = staticmethod(export.run)

    def prepare(self, options: TrainOptions, world: World) -> TrainOptions:
        if options.dataset.lower() == "digits_scenes":
            on_every_rank(lambda: world.is_main and write_embedded(options.data_dir), world)
        categories = read_split(options, "train").categories
        if options.val_while_train and read_split(options, "val").categories != categories:
            raise InputError("training and validation annotations have different categories: give files that agree.")
        if options.num_classes not in (None, len(categories)):
            raise InputError(
                f"num_classes is {options.num_classes}, but there are {len(categories)} categories: leave it out."
            )
        return replace(options, num_classes=len(categories))

    def train_loader(self, options: TrainOptions, world: World) -> Loader:
        return train_loader(options, world)

    def objective(self, options: TrainOptions, network: nn.Cell) -> Objective:
        return RetinaNetObjective(network)

    def validator(self, options: TrainOptions, network: nn.Cell, world: World) -> DetectionValidator:
        return DetectionValidator(
            network, read_split(options, "val"), eval_transform(options), options.batch_size,
            threads(options.num_parallel_workers), options.limits, world, options.skip_bad_images,
        )  # fmt: skip

    def example_batch(self, options: TrainOptions, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Images of noise, and of each a few anchors with an object."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((options.batch_size, options.in_channels, *size), np.float32)
        known = retinanet_anchors(options.anchor_scale)
        anchors = sum(known.counts(known.sizes(*size)))
        labels = np.full((options.batch_size, anchors), options.num_classes, np.int32)
        labels[:, ::100] = 0
        deltas = rng.standard_normal((options.batch_size, anchors, 4), np.float32)
        return tuple(map(Tensor, (images, labels, deltas)))

    def save_names(self, options: TrainOptions, folder: Path) -> None:
        names = [category.name for category in read_split(options, "train").categories]
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in names))

    def explain_errors(self, options: TrainOptions, objective: Objective) -> AbstractContextManager:
        return nullcontext()


TASK = Detection()

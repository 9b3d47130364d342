"""Detection, as the scripts see it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Tuple

from mindspore import Tensor, nn

from ..data.class_names import write_class_names
from ..data.loader import Loader, threads
from ..distributed import World
from ..errors import InputError
from ..training import Objective
from . import export, infer, validate
from .check import look_at_data
from .data import eval_transform, read_split, train_loader, with_data
from .options import InferOptions, TrainOptions, ValidateOptions
from .systems import system_of
from .validator import DetectionValidator

__all__ = ["TASK"]


class Detection:
    """See :class:`mindcv_models.tasks.Task`."""

    train_options = TrainOptions
    validate_options = ValidateOptions
    infer_options = InferOptions
    look_at_data = staticmethod(look_at_data)
    export_options = export.ExportOptions
    validate = staticmethod(validate.run)
    infer = staticmethod(infer.run)
    export = staticmethod(export.run)

    def prepare(self, options: TrainOptions, world: World) -> TrainOptions:
        options = with_data(options, world)
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
        return system_of(options.model).objective(options, network)

    def validator(self, options: TrainOptions, network: nn.Cell, world: World) -> DetectionValidator:
        return system_of(options.model).validator(
            network, read_split(options, "val"), eval_transform(options), options.batch_size,
            threads(options.num_parallel_workers), options.limits, world, options.skip_bad_images,
        )  # fmt: skip

    def example_batch(self, options: TrainOptions, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Images of noise, each with a few objects."""
        return tuple(map(Tensor, system_of(options.model).example(options, size)))

    def save_names(self, options: TrainOptions, folder: Path) -> None:
        write_class_names(read_split(options, "train").class_names(), folder)

    def explain_errors(self, options: TrainOptions, objective: Objective) -> AbstractContextManager:
        return nullcontext()


TASK = Detection()

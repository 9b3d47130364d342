"""Classification, as the scripts see it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ..distributed import World
from ..input_size import explain_size_errors
from ..training import Objective
from . import export, infer, validate
from .check import look_at_data
from .folders import prepare
from .loader import create_train_loader
from .names import save_class_names
from .objective import build_objective, networks_of
from .options import InferOptions, TrainOptions, ValidateOptions
from .transforms import EvalTransform
from .validator import ClassificationValidator

__all__ = ["TASK"]


class Classification:
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

    def train_loader(self, options: TrainOptions, world: World):
        return create_train_loader(options, world.rank, world.size)

    def objective(self, options: TrainOptions, network: nn.Cell) -> Objective:
        return build_objective(options, network)

    def validator(self, options: TrainOptions, network: nn.Cell, world: World) -> ClassificationValidator:
        return ClassificationValidator(network, options, world)

    def example_batch(self, options: TrainOptions, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """Images ``(B, C, H, W)`` of noise and labels ``(B,)``."""
        shape = (options.batch_size, options.in_channels, *size)
        images = Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
        return images, Tensor(np.arange(options.batch_size) % options.num_classes, ms.int32)

    def save_names(self, options: TrainOptions, folder: Path) -> None:
        save_class_names(options, folder)

    def explain_errors(self, options: TrainOptions, objective: Objective) -> AbstractContextManager:
        size = EvalTransform.resolve(options).size
        return explain_size_errors(networks_of(options, objective), size, options.in_channels)


TASK = Classification()

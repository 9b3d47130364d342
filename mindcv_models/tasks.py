"""The tasks: which room of the package trains and evaluates a model."""

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import List, Optional, Protocol, Sequence, Tuple

from mindspore import Tensor, nn

from .data.check import Part
from .distributed import World
from .evaluation import Validator
from .models.registry import config_of
from .training import Objective

__all__ = ["Task", "task_of"]


class Task(Protocol):
    """What the scripts ask of a task. Each room has one instance, ``TASK`` of its module ``task``.

    Attributes:
        train_options, validate_options, infer_options, export_options: the dataclasses of the scripts' options.
    """

    train_options: type
    validate_options: type
    infer_options: type
    export_options: type

    def prepare(self, options, world: World):
        """The options with data and number of classes settled, after checking what the run will read.

        Raises:
            InputError: the data is missing, or disagrees with the options.
        """

    def look_at_data(self, options) -> List[Part]:
        """What ``train.py --check_data`` finds in each split, without building anything."""

    def train_loader(self, options, world: World):
        """This rank's training batches; see :class:`mindcv_models.training.Trainer`."""

    def objective(self, options, network: nn.Cell) -> Objective:
        """The loss that ``network`` is trained with."""

    def validator(self, options, network: nn.Cell, world: World) -> Validator:
        """The validation of ``network`` on the options' validation split."""

    def example_batch(self, options, size: Tuple[int, int]) -> Tuple[Tensor, ...]:
        """A training batch of noise at height and width ``size``, for benchmarks."""

    def save_names(self, options, folder: Path) -> None:
        """Write the names of the classes into a run's folder."""

    def explain_errors(self, options, objective: Objective) -> AbstractContextManager:
        """A context that turns errors of networks that do not support the image size into an InputError."""

    def validate(self, options) -> None:
        """What ``validate.py`` does: validate checkpoints, log their table, and write it and their reports."""

    def infer(self, options, paths: Sequence[str]) -> int:
        """What ``infer.py`` does: predict images and print the results; 1 if one could not be decoded."""

    def export(self, options) -> None:
        """What ``export.py`` does: write a network for other runtimes and verify the file."""


def task_of(model: Optional[str]) -> Task:
    """The task of a registered model; an unknown model's is classification, whose ``create_model`` refuses it.

    Args:
        model: its name, or the name of published weights.
    """
    room = config_of(model and model.partition(".")[0]).task
    return import_module(f".{room}.task", __package__).TASK

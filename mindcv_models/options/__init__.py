"""Options of the scripts: typed, in groups with their checks, from a command line and a YAML file."""

from dataclasses import dataclass

from .groups import Group, check_options, check_pair, groups_of, option, titled_fields
from .images import MAX_SIDE, Normalization, check_factors
from .model import (
    AmpLevel,
    Averages,
    LossScale,
    Model,
    MovingAverage,
    Precision,
    Published,
    TrainedModel,
    Weights,
    check_kwargs,
)
from .optimizer import OPTIMIZERS, SCHEDULERS, Optimizer, Schedule
from .parse import parse, peek
from .run import Batches, Checkpoints, Epochs, Safety, TrainBatches
from .system import Device, Logging, System
from .values import show
from .yaml_file import read_recipe, save_options

__all__ = [
    "MAX_SIDE",
    "OPTIMIZERS",
    "SCHEDULERS",
    "AmpLevel",
    "Averages",
    "Batches",
    "Checkpoints",
    "Device",
    "Epochs",
    "Group",
    "Logging",
    "LossScale",
    "Model",
    "MovingAverage",
    "Normalization",
    "Optimizer",
    "Precision",
    "Published",
    "RunOptions",
    "Safety",
    "Schedule",
    "System",
    "TrainBatches",
    "TrainedModel",
    "Weights",
    "check_factors",
    "check_kwargs",
    "check_options",
    "check_pair",
    "groups_of",
    "option",
    "parse",
    "peek",
    "read_recipe",
    "save_options",
    "show",
    "titled_fields",
]


@dataclass
class RunOptions(
    System, Logging, TrainBatches, Model, MovingAverage, TrainedModel, Precision, LossScale, Checkpoints,
    Safety, Optimizer, Schedule,
):  # fmt: skip
    """The options of every training run, whatever its task; a task adds those of its data and its loss."""

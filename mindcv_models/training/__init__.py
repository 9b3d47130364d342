"""Training: the compiled step, the loop around it, and what they keep."""

from .build import build_network, build_step, build_teacher, networks_of
from .ema import EMA
from .keeper import CheckpointKeeper
from .loop import Trainer
from .objective import Distillation, Mesa, Objective, Teacher
from .optimizer import build_optimizer
from .schedule import Schedule, learning_rates
from .step import LossScale, TrainStep

__all__ = [
    "EMA",
    "CheckpointKeeper",
    "Distillation",
    "LossScale",
    "Mesa",
    "Objective",
    "Schedule",
    "Teacher",
    "TrainStep",
    "Trainer",
    "build_network",
    "build_optimizer",
    "build_step",
    "build_teacher",
    "learning_rates",
    "networks_of",
]

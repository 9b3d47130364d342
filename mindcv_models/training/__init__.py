"""Training: the compiled step, the loop around it, and what they keep."""

from .build import build_network, build_step, cast_as_options_say, create_network
from .checkpoints import CheckpointManager
from .curvature import CurvatureStep
from .ema import EMA
from .loop import Trainer
from .loss_scale import LossScale
from .objective import Objective
from .optimizer import build_optimizer
from .schedule import Schedule, learning_rates
from .step import TrainStep

__all__ = [
    "EMA",
    "CheckpointManager",
    "CurvatureStep",
    "LossScale",
    "Objective",
    "Schedule",
    "TrainStep",
    "Trainer",
    "build_network",
    "build_optimizer",
    "build_step",
    "cast_as_options_say",
    "create_network",
    "learning_rates",
]

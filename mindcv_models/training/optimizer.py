"""Learning rates and the optimizer, from the options."""

from typing import List

from mindcv.optim import create_optimizer
from mindcv.scheduler import create_scheduler
from mindspore import nn

from ..config import Options

__all__ = ["build_optimizer", "learning_rates"]


def learning_rates(options: Options, updates_per_epoch: int) -> List[float]:
    """The learning rate of every update of the run."""
    return create_scheduler(
        updates_per_epoch,
        scheduler=options.scheduler,
        lr=options.lr,
        min_lr=options.min_lr,
        warmup_epochs=options.warmup_epochs,
        warmup_factor=options.warmup_factor,
        decay_epochs=options.decay_epochs,
        decay_rate=options.decay_rate,
        milestones=list(options.multi_step_decay_milestones),
        num_epochs=options.epoch_size,
        num_cycles=options.num_cycles,
        cycle_decay=options.cycle_decay,
        lr_epoch_stair=options.lr_epoch_stair,
    )


def build_optimizer(options: Options, network: nn.Cell, rates: List[float]) -> nn.Optimizer:
    """MindCV's optimizer over the network's trainable parameters; the loss scale is the training step's business."""
    return create_optimizer(
        network,
        opt=options.opt,
        lr=rates,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.use_nesterov,
        weight_decay_filter=options.weight_decay_filter,
        layer_decay=options.layer_decay,
        eps=options.eps,
    )

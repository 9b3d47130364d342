"""Learning rates and the optimizer, from the options."""

import fnmatch
import logging
import math
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
    """MindCV's optimizer over the network's trainable parameters; the loss scale is the training step's business.

    A network may say ``no_weight_decay()``, names that weight decay spares when it spares norms and biases, and
    ``lr_scale()``, factors on the learning rate by shell-style pattern of names.
    """
    parameters, weight_decay_filter = network, options.weight_decay_filter
    if hasattr(network, "lr_scale"):
        # "auto" is MindCV's word for groups that are complete; its warning about them is for others.
        logging.getLogger("mindcv.optim.optim_factory").setLevel(logging.ERROR)
        parameters, weight_decay_filter = _groups(options, network, rates), "auto"
    return create_optimizer(
        parameters,
        opt=options.opt,
        lr=rates,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.use_nesterov,
        weight_decay_filter=weight_decay_filter,
        layer_decay=options.layer_decay,
        eps=options.eps,
    )


def _groups(options, network, rates):
    """Parameter groups, one for each pair of learning-rate factor and weight decay."""
    spares = options.weight_decay_filter == "norm_and_bias"
    spared = set(network.no_weight_decay()) if spares and hasattr(network, "no_weight_decay") else set()
    groups = {}
    for parameter in network.trainable_params():
        name = parameter.name
        is_norm_or_bias = name in spared or any(word in name for word in ("gamma", "beta", "bias"))
        factors = [factor for pattern, factor in network.lr_scale().items() if fnmatch.fnmatch(name, pattern)]
        key = (math.prod(factors), 0.0 if spares and is_norm_or_bias else options.weight_decay)
        groups.setdefault(key, []).append(parameter)
    listed = [
        {"params": members, "lr": [rate * factor for rate in rates], "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]
    return [*listed, {"order_params": network.trainable_params()}]

"""From options to what a run trains: the network with its first weights, and the step around it."""

import logging
from typing import List

from mindcv.loss import create_loss
from mindcv.models.registry import get_pretrained_cfg
from mindspore import nn

from ..checkpoint import load_weights
from ..config import Options
from ..distributed import World, broadcast_parameters
from ..evaluation import cast_network
from ..factory import create_model
from .ema import EMA
from .objective import Objective
from .optimizer import build_optimizer
from .step import LossScale, TrainStep

__all__ = ["build_network", "build_step"]

logger = logging.getLogger(__name__)


def build_network(options: Options, world: World) -> nn.Cell:
    """The network with its first weights, the same on every rank, in its training precision."""
    network = create_model(
        options.model,
        num_classes=options.num_classes,
        in_channels=options.in_channels,
        pretrained=options.pretrained,
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        **(options.model_kwargs or {}),
    )
    if options.ckpt_path:
        head = get_pretrained_cfg(options.model).get("classifier") if options.new_head else None
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.ema, without=head))
    broadcast_parameters(network.get_parameters(), world)
    return cast_network(network, options)


def build_step(options: Options, network: nn.Cell, rates: List[float], world: World) -> TrainStep:
    """The compiled step with the loss, optimizer, loss scale, moving average and clipping that the options ask for."""
    loss = create_loss(
        name=options.loss,
        reduction=options.reduction,
        label_smoothing=options.label_smoothing,
        aux_factor=options.aux_factor,
    )
    return TrainStep(
        Objective(network, loss),
        build_optimizer(options, network, rates),
        LossScale(options.loss_scale, options.loss_scale_type == "dynamic", options.drop_overflow_update),
        EMA(network, options.ema_decay, options.ema_ramp) if options.ema else None,
        options.clip_value if options.clip_grad else None,
        options.gradient_accumulation_steps,
        world,
    )

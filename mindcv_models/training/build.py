"""From options to what a run trains: the network with its first weights, and the step around it."""

import logging
from functools import partial

from mindspore import nn

from ..cells import cast_network
from ..checkpoint import creator, load_backbone, load_weights
from ..distributed import World, broadcast_parameters, synchronize_batch_norm
from ..errors import InputError
from ..models.registry import config_of, create_model
from ..options import RunOptions
from .curvature import CurvatureStep
from .ema import EMA
from .groups import freeze
from .loss_scale import LossScale
from .objective import Objective
from .optimizer import SophiaG, build_optimizer
from .schedule import Schedule
from .step import TrainStep

__all__ = ["build_network", "build_step", "cast_as_options_say", "create_network"]

logger = logging.getLogger(__name__)


def build_network(options: RunOptions, world: World) -> nn.Cell:
    """The network with its first weights, the same on every rank, in its training precision, frozen where told to."""
    if options.wants_published and (options.pretrained_tag or "").endswith("_reparam"):
        raise InputError(f"{options.tagged_model} is the inference form: train with the tag without _reparam.")
    network = create_network(options, options.wants_published)
    classifier = config_of(options.model).classifier
    if getattr(options, "backbone_path", ""):
        logger.info("backbone: %s", load_backbone(network.backbone, options.backbone_path, options.load_ema))
    if options.ckpt_path:
        head = classifier if options.new_head else ()
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.load_ema, head))
    if options.freeze or options.freeze_backbone:
        patterns, learning = tuple(options.freeze or ()), ()
        if options.freeze_backbone and hasattr(network, "backbone"):
            patterns += ("backbone.*",)
        elif options.freeze_backbone:
            learning = classifier
            if not learning:
                raise InputError(
                    f"freeze_backbone: {options.model} does not say which cell its classifier is; use freeze."
                )
        count = freeze(network, patterns, learning)
        logger.info("%d parameters are frozen", count)
    if options.sync_bn:
        synchronize_batch_norm(network, world)
    broadcast_parameters(network.get_parameters(), world)
    return cast_as_options_say(network, options)


def create_network(options: RunOptions, pretrained: bool = False) -> nn.Cell:
    """The model of the options with its own initial weights, or with the published ones if ``pretrained``."""
    create = creator(options, new_head=True) if pretrained else partial(create_model, options.model)
    return create(
        num_classes=options.num_classes,
        in_channels=options.in_channels,
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        **options.network_options,
        **(options.model_kwargs or {}),
    )


def cast_as_options_say(network: nn.Cell, options: RunOptions) -> nn.Cell:
    """``network`` in the precision of training."""
    return cast_network(network, options.amp_level, options.amp_cast_list)


def build_step(options: RunOptions, objective: Objective, schedule: Schedule, world: World) -> TrainStep:
    """The compiled step with the optimizer, loss scale, moving average and clipping that the options ask for."""
    network = objective.network
    optimizer = build_optimizer(options, network, schedule)
    loss_scale = LossScale(options.loss_scale, options.loss_scale_type == "dynamic", options.drop_overflow_update)
    curvature = None
    if isinstance(optimizer, SophiaG):
        curvature = CurvatureStep(objective, optimizer, loss_scale, world)
    return TrainStep(
        objective,
        optimizer,
        loss_scale,
        EMA(network, options.ema_decay, options.ema_ramp, objective.average) if options.ema else None,
        options.clip_value if options.clip_grad else None,
        options.gradient_accumulation_steps,
        world,
        curvature,
    )

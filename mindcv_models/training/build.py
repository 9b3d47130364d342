"""From options to what a run trains: the network with its first weights, and the step around it."""

import logging
import os
from typing import List, Optional, Tuple

from mindcv.loss import create_loss
from mindcv.models.registry import get_pretrained_cfg
from mindspore import nn

from ..cells import cast_network
from ..checkpoint import EMA_PREFIX, load_weights
from ..distributed import World, broadcast_parameters, synchronize_batch_norm
from ..errors import InputError
from ..models.registry import create_model
from ..options import Options
from .ema import EMA
from .groups import freeze
from .objective import Distillation, Mesa, Objective, Teacher
from .optimizer import build_optimizer
from .schedule import Schedule
from .step import LossScale, TrainStep

__all__ = ["build_network", "build_step", "build_teacher", "networks_of"]

logger = logging.getLogger(__name__)


def build_network(options: Options, world: World) -> nn.Cell:
    """The network with its first weights, the same on every rank, in its training precision, frozen where told to."""
    network = _create(options, options.pretrained)
    classifier = get_pretrained_cfg(options.model).get("classifier")
    if options.ckpt_path:
        head = classifier if options.new_head else None
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.averages, head))
    if options.freeze or options.freeze_backbone:
        if options.freeze_backbone and not classifier:
            raise InputError(f"freeze_backbone: {options.model} does not say which cell its classifier is; use freeze.")
        count = freeze(network, options.freeze or (), classifier if options.freeze_backbone else None)
        logger.info("%d parameters are frozen", count)
    if options.sync_bn:
        synchronize_batch_norm(network, world)
    broadcast_parameters(network.get_parameters(), world)
    return _cast(network, options)


def _cast(network, options):
    return cast_network(network, options.amp_level, options.amp_cast_list)


def _create(options, pretrained=False):
    return create_model(
        options.model,
        num_classes=options.num_classes,
        in_channels=options.in_channels,
        pretrained=pretrained,
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        **(options.model_kwargs or {}),
    )


def build_teacher(options: Options) -> Teacher:
    """The teacher that distillation learns from, with its weights.

    Raises:
        InputError: no such model or file, or weights for another model or number of classes.
    """
    name, path = options.teacher_model, options.teacher_path
    network = create_model(
        name, num_classes=options.num_classes, in_channels=options.in_channels, **(options.teacher_kwargs or {})
    )
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}: set teacher_path to the weights of {name}.")
    try:
        logger.info("teacher %s: %s", name, load_weights(network, path))
    except InputError as error:
        raise InputError(
            f"the teacher {name} has to know the student's {options.num_classes} classes: {error}"
        ) from error
    for key in ("mean", "std"):
        own, its = get_pretrained_cfg(options.model).get(key), get_pretrained_cfg(name).get(key)
        if own and its and tuple(own) != tuple(its):
            logger.warning("%s normalises images with %s %s, but sees the student's, %s", name, key, its, own)
    return Teacher(_cast(network, options))


def build_step(options: Options, network: nn.Cell, schedule: Schedule, world: World) -> TrainStep:
    """The compiled step with the loss, optimizer, loss scale, moving average and clipping that the options ask for."""
    average = Teacher(_cast(_create(options), options), EMA_PREFIX) if options.mesa else None
    ema = EMA(network, options.ema_decay, options.ema_ramp, average) if options.ema else None
    return TrainStep(
        build_objective(options, network, average),
        build_optimizer(options, network, schedule),
        LossScale(options.loss_scale, options.loss_scale_type == "dynamic", options.drop_overflow_update),
        ema,
        options.clip_value if options.clip_grad else None,
        options.gradient_accumulation_steps,
        world,
    )


def networks_of(options: Options, step: TrainStep) -> List[Tuple[str, nn.Cell]]:
    """The networks that a step of :func:`build_step` asks, after their models' names: the student first."""
    teachers = [term.teacher for term in step.objective.terms if isinstance(term, Distillation)]
    return [(options.model, step.objective.network), *((options.teacher_model, teacher) for teacher in teachers)]


def build_objective(options: Options, network: nn.Cell, average: Optional[Teacher] = None) -> Objective:
    """The loss with distillation and MESA if the options ask for them; ``average`` is MESA's teacher."""
    loss = create_loss(
        name=options.loss,
        reduction=options.reduction,
        label_smoothing=options.label_smoothing,
        aux_factor=options.aux_factor,
    )
    terms = []
    if options.distillation_type != "none":
        kind, alpha, tau = options.distillation_type, options.distillation_alpha, options.distillation_tau
        terms.append(Distillation(build_teacher(options), kind, alpha, tau))
    if options.mesa:
        terms.append(Mesa(average, options.mesa, options.mesa_start_ratio))
    return Objective(network, loss, terms)

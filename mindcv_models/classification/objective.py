"""The loss of a classifier's logits, and what teachers add to it."""

import logging
import os
from typing import List, Tuple

import mindspore as ms
from mindcv.loss import create_loss
from mindspore import nn, ops

from ..checkpoint import EMA_PREFIX, load_weights
from ..errors import InputError
from ..models.registry import config_of, create_model
from ..training import Objective, cast_as_options_say, create_network
from .options import TrainOptions

__all__ = [
    "ClassificationObjective",
    "Distillation",
    "Mesa",
    "Teacher",
    "build_objective",
    "build_teacher",
    "first_of",
    "networks_of",
]

logger = logging.getLogger(__name__)


class ClassificationObjective(Objective):
    """Images ``(B, C, H, W)`` and labels ``(B,)`` or ``(B, classes)`` to a float32 scalar.

    Args:
        network: images to logits, or to a tuple of logits if the loss knows what to do with them.
        loss: ``loss(logits, labels)``, a scalar.
        terms: cells ``term(loss, images, logits)`` that each give the next loss, such as :class:`Distillation`.
    """

    def __init__(self, network: nn.Cell, loss: nn.Cell, terms=(), average=None):
        super().__init__(network, average)
        self.loss = loss
        self.terms = nn.CellList(list(terms), auto_prefix=False)

    def construct(self, images, labels):
        logits = in_float32(self.network(images))
        loss = self.loss(logits, labels)
        for term in self.terms:
            loss = term(loss, images, first_of(logits))
        return loss

    def sampled(self, images, draws):
        """The cross entropy of labels drawn from the network's own predictions, which tells the loss's curvature.

        Args:
            draws: ``(B,)``, uniform numbers from 0 to 1: one random label each.
        """
        logits = first_of(in_float32(self.network(images)))
        below = ops.cumsum(ops.softmax(ops.stop_gradient(logits), 1), 1) < draws.reshape((-1, 1))  # (B, classes)
        labels = ops.minimum(below.astype(ms.int32).sum(1), logits.shape[1] - 1)
        return ops.cross_entropy(logits, labels)

    def start_epoch(self, progress: float) -> bool:
        """Tell the terms which share of the epochs is done, 0 to 1; True if the step has to be compiled anew."""
        changed = [term.start_epoch(progress) for term in self.terms]
        return any(changed)


class Teacher(nn.Cell):
    """A network that is only asked: images to float32 logits, in evaluation mode whatever cell holds it.

    No gradient flows into it. Its parameters get the prefix ``teacher.``, and belong to no optimizer or checkpoint.
    """

    def __init__(self, network: nn.Cell, prefix: str = "teacher."):
        super().__init__(auto_prefix=False)
        self.network = network
        for parameter in network.get_parameters():
            parameter.requires_grad = False
            parameter.name = prefix + parameter.name
        self.set_train(False)

    def construct(self, images):
        return ops.stop_gradient(first_of(in_float32(self.network(images))))

    def add_flags_recursive(self, **flags):
        """What ``set_train`` of an outer cell calls; the teacher stays in evaluation mode."""
        if "training" in flags:
            flags["training"] = False
        return super().add_flags_recursive(**flags)


class Distillation(nn.Cell):
    """Learning from a teacher that sees the same, mixed, batch: DeiT's hard and soft forms.

    ``hard``: ``(1 - alpha) * loss + alpha * CE(logits, the teacher's best guess)``.
    ``soft``: the second term is ``alpha * tau^2 * KL(teacher || logits)``, both softened by ``tau``, averaged over all
    logits of the batch (not over images: for 1000 classes it is a thousandth of the usual mean).
    """

    def __init__(self, teacher: Teacher, kind: str, alpha: float, tau: float):
        super().__init__(auto_prefix=False)
        self.teacher = teacher
        self.soft = kind == "soft"
        self.alpha = alpha
        self.tau = tau

    def construct(self, loss, images, logits):
        predictions = self.teacher(images)
        if self.soft:
            term = self.tau**2 * divergence(predictions, logits, self.tau).mean()
        else:
            term = ops.cross_entropy(logits, predictions.argmax(1).astype(ms.int32))
        return (1 - self.alpha) * loss + self.alpha * term

    def start_epoch(self, progress):
        return False


class Mesa(nn.Cell):
    """FasterViT's self-distillation: the moving average teaches once more than ``start_ratio`` of the epochs is done.

    Adds ``weight * 50 * KL(average || logits)``, both softened by 3, summed over classes and averaged over images.
    Until it starts, nothing of it is in the compiled step.

    Args:
        average: the network whose parameters are the moving averages.
    """

    SCALE, TEMPERATURE = 50.0, 3.0

    def __init__(self, average: Teacher, weight: float, start_ratio: float):
        super().__init__(auto_prefix=False)
        self.average = average
        self.weight = weight
        self.start_ratio = start_ratio
        self.active = False

    def construct(self, loss, images, logits):
        if not self.active:
            return loss
        gap = divergence(self.average(images), logits, self.TEMPERATURE).sum(1).mean()
        return loss + self.weight * self.SCALE * gap

    def start_epoch(self, progress):
        was_active, self.active = self.active, progress > self.start_ratio
        return self.active != was_active


def divergence(teacher, student, temperature):
    """The addends ``(B, classes)`` of KL(teacher || student), both softened by ``temperature``."""
    target = ops.log_softmax(teacher / temperature, 1)
    return ops.exp(target) * (target - ops.log_softmax(student / temperature, 1))


def first_of(logits):
    """The logits of the classifier itself, where a network returns those of auxiliary classifiers beside them."""
    return logits[0] if isinstance(logits, tuple) else logits


def in_float32(logits):
    """One tensor or a tuple of them in float32, so that no loss is computed in float16."""
    if isinstance(logits, tuple):
        return tuple([each.astype(ms.float32) for each in logits])
    return logits.astype(ms.float32)


def build_objective(options: TrainOptions, network: nn.Cell) -> ClassificationObjective:
    """The loss, with distillation and MESA if the options ask for them."""
    loss = create_loss(
        name=options.loss,
        reduction=options.reduction,
        label_smoothing=options.label_smoothing,
        aux_factor=options.aux_factor,
    )
    terms, average = [], None
    if options.distillation_type != "none":
        kind, alpha, tau = options.distillation_type, options.distillation_alpha, options.distillation_tau
        terms.append(Distillation(build_teacher(options), kind, alpha, tau))
    if options.mesa:
        average = Teacher(cast_as_options_say(create_network(options), options), EMA_PREFIX)
        terms.append(Mesa(average, options.mesa, options.mesa_start_ratio))
    return ClassificationObjective(network, loss, terms, average)


def build_teacher(options: TrainOptions) -> Teacher:
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
        own, its = getattr(config_of(options.model), key), getattr(config_of(name), key)
        if own and its and tuple(own) != tuple(its):
            logger.warning("%s normalises images with %s %s, but sees the student's, %s", name, key, its, own)
    return Teacher(cast_as_options_say(network, options))


def networks_of(options: TrainOptions, objective: ClassificationObjective) -> List[Tuple[str, nn.Cell]]:
    """The networks that an objective of :func:`build_objective` calls, with their models' names: the student first."""
    teachers = [term.teacher for term in objective.terms if isinstance(term, Distillation)]
    return [(options.model, objective.network), *((options.teacher_model, teacher) for teacher in teachers)]

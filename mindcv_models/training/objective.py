"""What a training step makes smaller: the loss of the network's logits, and what teachers add to it."""

import mindspore as ms
from mindspore import nn, ops

__all__ = ["Distillation", "Mesa", "Objective", "Teacher"]


class Objective(nn.Cell):
    """Images ``(B, C, H, W)`` and labels ``(B,)`` or ``(B, classes)`` to a float32 scalar.

    Args:
        network: images to logits, or to a tuple of logits if the loss knows what to do with them.
        loss: ``loss(logits, labels)``, a scalar.
        terms: cells ``term(loss, images, logits)`` that each give the next loss, such as :class:`Distillation`.
    """

    def __init__(self, network: nn.Cell, loss: nn.Cell, terms=()):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.terms = nn.CellList(list(terms), auto_prefix=False)

    def construct(self, images, labels):
        logits = in_float32(self.network(images))
        loss = self.loss(logits, labels)
        for term in self.terms:
            loss = term(loss, images, logits[0] if isinstance(logits, tuple) else logits)
        return loss

    def sampled(self, images, draws):
        """The cross entropy of labels drawn from the network's own predictions, which tells the loss's curvature.

        Args:
            draws: ``(B,)``, uniform numbers from 0 to 1: one random label each.
        """
        logits = in_float32(self.network(images))
        if isinstance(logits, tuple):
            logits = logits[0]
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
        logits = in_float32(self.network(images))
        return ops.stop_gradient(logits[0] if isinstance(logits, tuple) else logits)

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
        guesses = self.teacher(images)
        if self.soft:
            term = self.tau**2 * divergence(guesses, logits, self.tau).mean()
        else:
            term = ops.cross_entropy(logits, guesses.argmax(1).astype(ms.int32))
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


def in_float32(logits):
    """One tensor or a tuple of them in float32, so that no loss is computed in float16."""
    if isinstance(logits, tuple):
        return tuple([each.astype(ms.float32) for each in logits])
    return logits.astype(ms.float32)

"""One training step, compiled as a whole; Sophia-G's look at the curvature is a second graph."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..distributed import ONE_DEVICE, AllReduceMean, World
from .ema import EMA
from .optimizer import SophiaG

__all__ = ["LossScale", "TrainStep"]


class LossScale(nn.Cell):
    """The factor on the loss that keeps small float16 gradients from vanishing.

    A dynamic scale doubles after ``window`` updates without an overflow, and halves at each one, down to 1.

    Attributes:
        scales: whether there is anything to multiply by; a fixed scale of 1 costs nothing.
        checks: whether updates with an overflow are skipped, which costs a look at every gradient.
    """

    def __init__(self, value: float = 1.0, dynamic: bool = False, skip_overflow: bool = False, window: int = 2000):
        super().__init__(auto_prefix=False)
        self.dynamic = dynamic
        self.scales = dynamic or value != 1
        self.checks = dynamic or skip_overflow
        self.window = window
        self.value = Parameter(Tensor(value, ms.float32), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0.0, ms.float32), name="loss_scale_good_steps", requires_grad=False)

    def construct(self, finite):
        """Adapt the scale to the outcome of a step: ``finite``, a boolean scalar."""
        if not self.dynamic:
            return finite
        good_steps = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grows = good_steps >= self.window
        grown = ops.select(grows, self.value * 2, self.value)
        shrunk = ops.maximum(self.value * 0.5, ops.ones_like(self.value))
        done = ops.assign(self.value, ops.select(finite, grown, shrunk))
        done = ops.depend(done, ops.assign(self.good_steps, ops.select(grows, ops.zeros_like(good_steps), good_steps)))
        return ops.depend(finite, done)


class TrainStep(nn.Cell):
    """Forward, backward, mean over devices, clipping, update and moving average in one graph.

    Called with images ``(B, C, H, W)`` and labels ``(B,)`` or ``(B, classes)``; returns the loss, a float32 scalar,
    averaged over devices. Gradients are reduced before they are clipped, so that every rank clips by the norm that
    one device with the whole batch would see.

    Args:
        objective: ``(images, labels)`` to the scalar to make smaller, such as :class:`Objective`.
        clip_norm: largest global norm of the gradients, or None.
        accumulate: batches whose mean gradient makes one update; the optimizer counts updates.
    """

    def __init__(self, objective, optimizer, loss_scale=None, ema: EMA = None, clip_norm=None, accumulate=1,
                 world: World = ONE_DEVICE):  # fmt: skip
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.optimizer = optimizer
        self.loss_scale = loss_scale or LossScale()
        self.ema = ema
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.weights = optimizer.parameters
        self.map = ops.HyperMap()
        self.mean_over_ranks = AllReduceMean(world)
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, self.weights)
        if accumulate > 1:
            self.sums = self.weights.clone("accumulated", init="zeros")
            self.batches = Parameter(Tensor(0, ms.int32), name="accumulated_batches", requires_grad=False)
        self.curvature = None
        if isinstance(optimizer, SophiaG):
            self.curvature = CurvatureStep(objective, optimizer, self.loss_scale, world)
        self.set_train()

    def start_epoch(self, progress: float) -> bool:
        """Call before each epoch with the share of the epochs that are done, 0 to 1.

        Where the objective changes on the way, the next call compiles a new graph over the same parameters; True then.
        """
        changes = self.objective.start_epoch(progress)
        if changes:
            self.compile_cache.clear()
        return changes

    def scaled_loss(self, images, labels):
        loss = self.objective(images, labels)
        return loss * self.loss_scale.value if self.loss_scale.scales else loss

    def __call__(self, images, labels):
        if self.curvature is not None and self.begins_update() and self.optimizer.is_due():
            self.curvature(images)
        return super().__call__(images, labels)

    def begins_update(self) -> bool:
        return self.accumulate == 1 or int(self.batches.asnumpy()) == 0

    def construct(self, images, labels):
        loss, gradients = self.value_and_grad(images, labels)
        if self.loss_scale.scales:
            factor = 1 / self.loss_scale.value
            loss = loss * factor
            gradients = scaled(gradients, factor)
        if self.accumulate == 1:
            return ops.depend(self.mean_over_ranks((loss,))[0], self.update(gradients))
        done = ops.assign_add(self.batches, Tensor(1, ms.int32))
        done = ops.depend(done, self.map(add_to, self.sums, gradients))
        loss = ops.depend(self.mean_over_ranks((loss,))[0], done)
        if self.batches >= self.accumulate:
            loss = ops.depend(loss, self.update_from_sums())
        return loss

    def update_from_sums(self):
        done = self.update(scaled(self.sums, 1 / self.accumulate))
        done = ops.depend(done, ops.assign(self.batches, Tensor(0, ms.int32)))
        return ops.depend(done, self.map(clear, self.sums))

    def update(self, gradients):
        """Apply the mean gradient over ranks, unless it overflowed and that is checked."""
        gradients = self.mean_over_ranks(gradients)
        if not self.loss_scale.checks:
            return self.apply(gradients)
        finite = all_finite(gradients)
        finite = self.loss_scale(finite)
        if finite:
            finite = ops.depend(finite, self.apply(gradients))
        return finite

    def apply(self, gradients):
        if self.clip_norm is not None:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        done = self.optimizer(gradients)
        if self.ema is not None:
            done = ops.depend(self.ema(), done)
        return done


class CurvatureStep(nn.Cell):
    """Give Sophia-G the curvature at a batch of images ``(B, C, H, W)``, averaged over devices.

    Returns whether it is finite; one that is not does not count. A graph of its own, since MindSpore does not
    differentiate reliably within a branch of :class:`TrainStep`'s.
    """

    def __init__(self, objective, optimizer: SophiaG, loss_scale: LossScale, world: World):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.rank, self.ranks = world.rank, world.size
        self.map = ops.HyperMap()
        self.mean_over_ranks = AllReduceMean(world)
        self.gradients = ms.grad(self.scaled_loss, None, optimizer.parameters)
        self.statistics = ParameterTuple([p for p in objective.network.get_parameters() if "moving_" in p.name])
        self.kept = self.statistics.clone("kept", init="zeros")

    def scaled_loss(self, images, draws):
        return self.objective.sampled(images, draws) * self.loss_scale.value

    def construct(self, images):
        count = images.shape[0]
        # The training step counts these images in batch normalisation; they must not count twice.
        images = ops.depend(images, self.map(put, self.kept, self.statistics))
        gradients = self.gradients(images, self.optimizer.draws(count, self.rank, self.ranks))
        gradients = self.mean_over_ranks(scaled(gradients, 1 / self.loss_scale.value))
        finite = all_finite(gradients)
        done = self.optimizer.estimate(gradients, count * self.ranks, finite)
        return ops.depend(ops.depend(finite, done), self.map(put, self.statistics, self.kept))


def scaled(tensors, factor):
    return ops.HyperMap()(ops.partial(multiply, factor), tensors)


def all_finite(tensors):
    """True if no element of any tensor is infinite or not a number."""
    return ops.stack(ops.HyperMap()(is_finite, tensors)).all()


def is_finite(tensor):
    return ops.isfinite(tensor).all()


def add_to(total, tensor):
    return ops.assign_add(total, tensor)


def put(parameter, value):
    return ops.assign(parameter, value)


def clear(tensor):
    return ops.assign(tensor, ops.zeros_like(tensor))


def multiply(factor, tensor):
    return tensor * ops.cast(factor, tensor.dtype)

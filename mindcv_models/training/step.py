"""One training step, compiled as a whole."""

from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from ..distributed import ONE_DEVICE, AllReduceMean, World
from ..graph_cache import compile_cached
from .clipping import GlobalNormClip
from .curvature import CurvatureStep
from .ema import EMA
from .loss_scale import LossScale
from .objective import Objective
from .tensors import add_to, all_finite, clear, scaled

__all__ = ["TrainStep"]


class TrainStep(nn.Cell):
    """Forward, backward, mean over devices, clipping, update and moving average in one graph.

    Called with the tensors of a batch, images first; returns the loss, a float32 scalar, averaged over devices. An
    objective with parts makes it a vector ``(1 + parts,)``: the loss, then each part. Gradients are reduced before they
    are clipped, so that every rank clips by the norm that one device with the whole batch would see.

    Args:
        clip_norm: largest global norm of the gradients, or None.
        accumulate: batches whose mean gradient makes one update; the optimizer counts updates.
        curvature: what the optimizer has to see of the images before an update; or None.
    """

    def __init__(self, objective: Objective, optimizer: nn.Cell, loss_scale: Optional[LossScale] = None,
                 ema: Optional[EMA] = None, clip_norm: Optional[float] = None, accumulate: int = 1,
                 world: World = ONE_DEVICE, curvature: Optional[CurvatureStep] = None):  # fmt: skip
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.has_parts = bool(objective.parts)
        self.optimizer = optimizer
        self.loss_scale = loss_scale or LossScale()
        self.ema = ema
        self.clip = None if clip_norm is None else GlobalNormClip(clip_norm)
        self.accumulate = accumulate
        self.weights = optimizer.parameters
        self.map = ops.HyperMap()
        self.mean_over_ranks = AllReduceMean(world)
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, self.weights, has_aux=self.has_parts)
        if accumulate > 1:
            self.sums = self.weights.clone("accumulated", init="zeros")
            self.batches = Parameter(Tensor(0, ms.int32), name="accumulated_batches", requires_grad=False)
        self.curvature = curvature
        self.set_train()

    def start_epoch(self, progress: float) -> bool:
        """Call before each epoch with the share of the epochs that are done, 0 to 1.

        Where the objective changes on the way, the next call compiles a new graph over the same parameters; True then.
        """
        changes = self.objective.start_epoch(progress)
        if changes:
            self.compile_cache.clear()
        return changes

    def scaled_loss(self, *batch):
        if self.has_parts:
            loss, parts = self.objective(*batch)
            return self.scaled_up(loss), parts
        return self.scaled_up(self.objective(*batch))

    def scaled_up(self, loss):
        return loss * self.loss_scale.value if self.loss_scale.scales else loss

    def __call__(self, *batch):
        if self.curvature is not None and self.begins_update():
            self.curvature.before_update(batch[0])
        compile_cached("graph of the training step", self, *batch)
        return super().__call__(*batch)

    def begins_update(self) -> bool:
        return self.accumulate == 1 or int(self.batches.asnumpy()) == 0

    def construct(self, *batch):
        loss, gradients = self.value_and_grad(*batch)
        parts = ()
        if self.has_parts:
            loss, parts = loss
        if self.loss_scale.scales:
            factor = 1 / self.loss_scale.value
            loss = loss * factor
            gradients = scaled(gradients, factor)
        if self.has_parts:
            loss = ops.stack((loss, *parts))
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
        if self.clip is not None:
            gradients = self.clip(gradients)
        done = self.optimizer(gradients)
        if self.ema is not None:
            done = ops.depend(self.ema(), done)
        return done

"""Sophia-G's estimate of the curvature: a second graph beside the training step's."""

import mindspore as ms
from mindspore import ParameterTuple, nn, ops

from ..cells import running_statistics
from ..distributed import AllReduceMean, World
from ..errors import InputError
from ..graph_cache import call_cached
from .loss_scale import LossScale
from .objective import Objective
from .optimizer import SophiaG
from .tensors import all_finite, put, scaled

__all__ = ["CurvatureStep"]


class CurvatureStep(nn.Cell):
    """Give Sophia-G the curvature at a batch of images ``(B, C, H, W)``, averaged over devices.

    Returns whether it is finite; one that is not does not count. A graph of its own, since MindSpore does not
    differentiate reliably within a branch of :class:`TrainStep`'s.

    Args:
        objective: has ``sampled(images, draws)``, the loss of labels drawn from the network's own predictions.

    Raises:
        InputError: the objective has no such method.
    """

    def __init__(self, objective: Objective, optimizer: SophiaG, loss_scale: LossScale, world: World):
        super().__init__(auto_prefix=False)
        if not hasattr(objective, "sampled"):
            raise InputError("opt sophiag needs the logits of a classifier: choose another optimizer, such as adamw.")
        self.objective = objective
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.rank, self.ranks = world.rank, world.size
        self.map = ops.HyperMap()
        self.mean_over_ranks = AllReduceMean(world)
        self.gradients = ms.grad(self.scaled_loss, None, optimizer.parameters)
        self.statistics = ParameterTuple(running_statistics(objective.network))
        self.kept = self.statistics.clone("kept", init="zeros")

    def before_update(self, images):
        """Take the curvature at ``images`` if the optimizer is due for it."""
        if self.optimizer.is_due():
            call_cached("graph of the curvature", self, images)

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

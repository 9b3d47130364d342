"""Stochastic depth whose random numbers the training loop gives, so that a run can be repeated and resumed exactly."""

import functools
from typing import Optional

import mindspore as ms
import numpy as np
from mindcv.models.layers.drop_path import DropPath as MindCVDropPath
from mindspore import Parameter, Tensor, nn, ops

from ..cells import replace_cells, set_value

__all__ = ["DropPath", "DropPathDraws"]

DRAWS = 256  # uniform numbers that a layer gets each step
ADDENDS = 8  # of them that make one row's number


@ops.constexpr
@functools.lru_cache(maxsize=256)
def _subsets(rows, layer):
    """``(rows, ADDENDS)`` positions of a layer's numbers among all, the same for each call."""
    rng = np.random.default_rng(0)
    subsets = np.stack([rng.choice(DRAWS, ADDENDS, replace=False) for _ in range(rows)])
    return Tensor((subsets + layer * DRAWS).astype(np.int32))


class DropPath(nn.Cell):
    """Stochastic depth (arXiv:1603.09382): drops rows of ``x``, and scales the others to keep the mean.

    MindCV's cell draws from a kernel's own generator, whose state nobody can save. This one makes its numbers from
    ``draws``, uniform in [0, 1): a row's number is the fractional part of the sum of a few of them, a different subset
    for each row. Such sums are uniform again, any two are independent, and any set of them whose subsets are linearly
    independent is jointly so. They need only operators that every back end has.

    Args:
        drop_prob: probability that a row is dropped.
        scale_by_keep: divide the rows that are kept by the probability of that.
        draws: ``(layers * DRAWS,)`` float32, filled before each step.
        layer: which ``DRAWS`` of them are this layer's.
    """

    def __init__(self, drop_prob: float, scale_by_keep: bool, draws: Parameter, layer: int):
        super().__init__()
        self.keep_prob = 1.0 - drop_prob
        self.scale = 1.0 / self.keep_prob if scale_by_keep else 1.0
        self.layer = layer
        object.__setattr__(self, "draws", draws)  # no parameter of the network: not counted, averaged or saved

    def construct(self, x):
        if not self.training:
            return x
        sums = ops.gather(self.draws, _subsets(x.shape[0], self.layer), 0).sum(1)  # (B,)
        kept = ops.floor(sums - ops.floor(sums) + self.keep_prob) * self.scale
        kept = ops.stop_gradient(kept).reshape((-1,) + (1,) * (x.ndim - 1))  # (B, 1, ..., 1)
        return x * kept.astype(x.dtype)


class DropPathDraws:
    """The random numbers of a network's stochastic depth, ``DRAWS`` for each of ``layers``.

    Attributes:
        values: ``(layers * DRAWS,)`` float32, what the network's :class:`DropPath` cells read.
    """

    def __init__(self, layers: int):
        self.count = layers * DRAWS
        self.values = Parameter(Tensor(np.zeros(self.count), ms.float32), name="drop_path_draws", requires_grad=False)

    @classmethod
    def of(cls, network: nn.Cell) -> Optional["DropPathDraws"]:
        """Replace MindCV's cells in ``network`` by :class:`DropPath`, in place; None if there are none to replace."""
        found = [cell for _, cell in network.cells_and_names() if _drops(cell)]
        if not found:
            return None
        draws = cls(len(found))
        cells = {
            id(cell): DropPath(1 - cell.keep_prob, cell.scale_by_keep, draws.values, layer).set_train(cell.training)
            for layer, cell in enumerate(found)
        }
        replace_cells(network, lambda cell: cells.get(id(cell)))
        return draws

    def fill(self, rng: np.random.Generator) -> None:
        """Draw the numbers of the next step."""
        set_value(self.values, rng.random(self.count, np.float32))


def _drops(cell):
    return isinstance(cell, MindCVDropPath) and cell.keep_prob < 1

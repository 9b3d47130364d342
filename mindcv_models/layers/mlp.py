"""Two linear layers with GELU between them, as one operator in inference on the CPU."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import nn

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["FusedMLP"]

_SOURCE = Path(__file__).with_suffix(".cc")


class FusedMLP(nn.Cell):
    """``second(gelu(first(x)))`` without what is between them in memory, which is two to four times as large as ``x``.

    Takes tokens ``(..., C)`` or, with ``pointwise``, maps ``(B, C, H, W)``; then weight ``(hidden, C, ...)``, bias
    ``(hidden,)``, weight ``(D, hidden, ...)`` and bias ``(D,)`` of the layers. Gives tokens ``(..., D)`` or maps
    ``(B, D, H, W)``. There is no gradient.
    """

    def __init__(self, pointwise: bool = False):
        super().__init__()
        self.pointwise = pointwise
        library = backend.compile_library(_SOURCE)
        self.loops = library and _mlp_loops(library, "pointwise_mlp" if pointwise else "dense_mlp")

    def runs(self, training: bool) -> bool:
        """Whether it can be used in the graph that is compiled."""
        return self.loops is not None and not training and in_graph_mode()

    def construct(self, x, weight1, bias1, weight2, bias2):
        wide = x.astype(ms.float32) if self.pointwise else x.astype(ms.float32).reshape(-1, x.shape[-1])
        weight1, bias1 = weight1.astype(ms.float32), bias1.astype(ms.float32)
        weight2, bias2 = weight2.astype(ms.float32), bias2.astype(ms.float32)
        out = self.loops(wide, weight1, bias1, weight2, bias2).astype(x.dtype)
        return out if self.pointwise else out.reshape(*x.shape[:-1], -1)


@functools.cache
def _mlp_loops(library: Path, name: str) -> Loops:
    def shape(x, _, __, weight, ___):
        return x[0], weight[0], *x[2:]

    return Loops(f"{library}:{name}", shape, lambda x, *_: x, "aot")

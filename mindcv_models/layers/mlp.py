"""Two linear layers with GELU between them, as one operator in inference on the CPU."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import nn, ops

from .. import backend
from .activation import GELU
from .custom import Loops, in_graph_mode
from .products import products

__all__ = ["FusedMLP"]

_SOURCE = Path(__file__).with_suffix(".cc")


class FusedMLP(nn.Cell):
    """``second(gelu(first(x)))`` without what is between them in memory, which is two to four times as large as ``x``.

    Takes tokens ``(..., C)`` or, with ``pointwise``, maps ``(B, C, H, W)``; then weight ``(hidden, C, ...)``, bias
    ``(hidden,)``, weight ``(D, hidden, ...)`` and bias ``(D,)`` of the layers. Gives tokens ``(..., D)`` or maps
    ``(B, D, H, W)``. Its gradient, which an evaluation rarely needs, is that of the layers as they are.
    """

    def __init__(self, pointwise: bool = False):
        super().__init__()
        self.pointwise = pointwise
        library = backend.compile_library(_SOURCE)
        self.loops = library and _mlp_loops(library, "pointwise" if pointwise else "dense")

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
def _mlp_loops(library: Path, layer: str) -> Loops:
    multiply, activate = products("products.cc", layer), GELU()
    differentiate = ops.GradOperation(get_all=True, sens_param=True)

    def apart(x, weight1, bias1, weight2, bias2):
        return multiply(activate(multiply(x, weight1, bias1)), weight2, bias2)

    def gradients(x, weight1, bias1, weight2, bias2, out, dout):
        return differentiate(apart)(x, weight1, bias1, weight2, bias2, dout)

    def shape(x, _, __, weight, ___):
        return x[0], weight[0], *x[2:]

    return Loops(f"{library}:{layer}_mlp", shape, lambda x, *_: x, "aot", bprop=gradients)

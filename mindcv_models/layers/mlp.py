"""A residual branch of two linear layers with GELU between them, as one operator in inference on the CPU."""

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
    """``residual + scale * second(gelu(first(x)))`` without what is between in memory, two to four times the input.

    Takes tokens ``(..., C)`` or, with ``pointwise``, maps ``(B, C, H, W)``; then weight ``(hidden, C, ...)``, bias
    ``(hidden,)``, weight ``(D, hidden, ...)`` and bias ``(D,)`` of the layers; then the scale of each channel, ``D``
    numbers, and the residual, of the result's shape: tokens ``(..., D)`` or maps ``(B, D, H, W)``. Its gradient, which
    an evaluation rarely needs, is that of the layers as they are.
    """

    def __init__(self, pointwise: bool = False):
        super().__init__()
        library = backend.compile_library(_SOURCE)
        self.loops = library and _mlp_loops(library, "pointwise" if pointwise else "dense")

    def runs(self, training: bool) -> bool:
        """Whether it can be used in the graph that is compiled."""
        return self.loops is not None and not training and in_graph_mode()

    def construct(self, x, weight1, bias1, weight2, bias2, scale, residual):
        weight1, bias1 = weight1.astype(ms.float32), bias1.astype(ms.float32)
        weight2, bias2 = weight2.astype(ms.float32), bias2.astype(ms.float32)
        scale, to = scale.astype(ms.float32), residual.astype(ms.float32)
        out = self.loops(x.astype(ms.float32), weight1, bias1, weight2, bias2, scale, to)
        return out.astype(residual.dtype)


@functools.cache
def _mlp_loops(library: Path, layer: str) -> Loops:
    multiply, activate = products("products.cc", layer), GELU()
    differentiate = ops.GradOperation(get_all=True, sens_param=True)

    def apart(x, weight1, bias1, weight2, bias2):
        return multiply(activate(multiply(x, weight1, bias1)), weight2, bias2)

    def gradients(x, weight1, bias1, weight2, bias2, scale, residual, out, dout):
        branch = apart(x, weight1, bias1, weight2, bias2)
        # The scale may be a constant, for which MindSpore would leave a gradient out.
        to_layers = differentiate(apart)(x, weight1, bias1, weight2, bias2, dout * scale)
        to_scale = dout * branch
        to_scale = to_scale.sum((0, 2, 3)) if layer == "pointwise" else to_scale.reshape(-1, out.shape[-1]).sum(0)
        return *to_layers, to_scale.reshape(scale.shape), dout

    return Loops(f"{library}:{layer}_mlp", lambda *shapes: shapes[-1], lambda x, *_: x, "aot", bprop=gradients)

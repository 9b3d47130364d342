"""Residual branches in the form that is fastest on each back end."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import nn

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["ScaledResidual"]

_SOURCE = Path(__file__).with_suffix(".cc")


class ScaledResidual(nn.Cell):
    """A map plus a branch whose channels are scaled (LayerScale, Touvron et al., 2021, arXiv:2103.17239).

    Maps ``x``, ``(B, C, H, W)``, a scale, ``(C, 1, 1)``, and a branch, ``(B, C, H, W)``, to ``x + scale * branch``. In
    training on the CPU, in graph mode, it is one operator in C++, and so is its gradient; in inference the sum is left
    to be fused with what surrounds it.
    """

    def __init__(self):
        super().__init__()
        library = backend.compile_library(_SOURCE)
        self.loops = library and _residual_loops(library)

    def construct(self, x, scale, branch):
        if self.loops is not None and self.training and in_graph_mode():
            wide = self.loops(x.astype(ms.float32), scale.astype(ms.float32), branch.astype(ms.float32))
            return wide.astype(x.dtype)
        return x + scale * branch


@functools.cache
def _residual_loops(library: Path) -> Loops:
    def gradients(x, scale, branch, out, dout):
        return dout, *differentiate(scale, branch, dout)

    differentiate = Loops(
        f"{library}:add_scaled_gradient", lambda scale, branch, _: (scale, branch), lambda *types: types[:2], "aot"
    )
    return Loops(f"{library}:add_scaled", lambda x, *_: x, lambda x, *_: x, "aot", bprop=gradients)

"""Multi-head self-attention in the form that is fastest on each back end."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["SelfAttention"]

_SOURCE = Path(__file__).with_suffix(".cc")


class SelfAttention(nn.Cell):
    """Scaled dot-product attention of each token of a sequence to all of them (Vaswani et al., 2017, section 3.2).

    Maps queries, keys and values, ``(N, L, 3 * C)``, and a bias of the scores, ``(1, heads, L, L)`` or None, to
    ``(N, L, C)``. On the CPU, in graph mode, it is one operator in C++.

    Args:
        heads: a divisor of C.
        scale: factor of the scores.
        drop: dropout of the shares that a token gives to others.
    """

    def __init__(self, heads: int, scale: float, drop: nn.Cell = None):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.drop = nn.Identity() if drop is None else drop
        self.drops = not isinstance(self.drop, nn.Identity)
        library = backend.compile_library(_SOURCE)
        self.loops = library and _attention_loops(library)
        self.settings = Tensor([heads, scale], ms.float32)
        self.no_bias = Tensor([0], ms.float32)

    def construct(self, qkv, bias=None):
        if self.loops is not None and in_graph_mode() and not (self.drops and self.training):
            bias = self.no_bias if bias is None else bias
            settings = self.settings.astype(ms.float32)
            return self.loops(qkv.astype(ms.float32), bias.astype(ms.float32), settings).astype(qkv.dtype)
        _, length, channels = qkv.shape
        parts = qkv.reshape(-1, length, 3, self.heads, channels // 3 // self.heads)
        q, k, v = ops.unstack(parts.transpose(2, 0, 3, 1, 4))  # (N, heads, L, C / heads) each
        scores = ops.matmul(q * self.scale, k.swapaxes(2, 3))  # (N, heads, L, L)
        if bias is not None:
            scores = scores + bias
        out = ops.matmul(self.drop(ops.softmax(scores, axis=-1)), v)
        return out.transpose(0, 2, 1, 3).reshape(-1, length, channels // 3)


@functools.cache
def _attention_loops(library: Path) -> Loops:
    def gradients(qkv, bias, settings, out, dout):
        return *differentiate(qkv, bias, settings, dout), ops.zeros_like(settings)

    differentiate = Loops(
        f"{library}:attention_gradient", lambda qkv, bias, *_: (qkv, bias), lambda qkv, bias, *_: (qkv, bias), "aot"
    )
    return Loops(
        f"{library}:attention", lambda qkv, *_: [*qkv[:2], qkv[2] // 3], lambda qkv, *_: qkv, "aot", bprop=gradients
    )

"""Multi-head attention in the form that is fastest on each back end."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["CrossAttention", "SelfAttention", "WindowAttention"]

_SOURCE = Path(__file__).with_suffix(".cc")


class _Attention(nn.Cell):
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2).

    Args:
        heads: a divisor of the channels.
        scale: factor of the scores.
        loops: makes an operator in C++ of a library, which computes it on the CPU in graph mode.
        window: side of the windows that attend within themselves, if there are any.
        drop: dropout of the shares that a token gives to others.
    """

    def __init__(self, heads: int, scale: float, loops, window: int = 0, drop: nn.Cell = None):
        super().__init__()
        self.heads, self.scale, self.window = heads, scale, window
        self.drop = nn.Identity() if drop is None else drop
        self.drops = not isinstance(self.drop, nn.Identity)
        library = backend.compile_library(_SOURCE)
        self.loops = library and loops(library)
        self.settings = Tensor([heads, scale, window], ms.float32)

    def by_loops(self):
        return self.loops is not None and in_graph_mode() and not (self.drops and self.training)

    def attend(self, q, k, v, bias=None):
        """``(..., L, D)``, ``(..., M, D)`` twice and a bias of the scores to ``(..., L, D)``."""
        scores = ops.matmul(q * self.scale, k.swapaxes(-2, -1))  # (..., L, M)
        if bias is not None:
            scores = scores + bias
        return ops.matmul(self.drop(ops.softmax(scores, axis=-1)), v)


class SelfAttention(_Attention):
    """Attention of each token of a sequence to all of them.

    Maps queries, keys and values, ``(N, L, 3 * C)``, and a bias of the scores, ``(1, heads, L, L)`` or None, to
    ``(N, L, C)``.

    Args:
        heads: a divisor of C.
        scale: factor of the scores.
        drop: dropout of the shares that a token gives to others.
    """

    def __init__(self, heads: int, scale: float, drop: nn.Cell = None):
        super().__init__(heads, scale, _self_loops, drop=drop)
        self.no_bias = Tensor([0], ms.float32)

    def construct(self, qkv, bias=None):
        if self.by_loops():
            bias = self.no_bias if bias is None else bias
            settings = self.settings.astype(ms.float32)
            return self.loops(qkv.astype(ms.float32), bias.astype(ms.float32), settings).astype(qkv.dtype)
        _, length, channels = qkv.shape
        parts = qkv.reshape(-1, length, 3, self.heads, channels // 3 // self.heads)
        q, k, v = ops.unstack(parts.transpose(2, 0, 3, 1, 4))  # (N, heads, L, C / heads) each
        return self.attend(q, k, v, bias).transpose(0, 2, 1, 3).reshape(-1, length, channels // 3)


class CrossAttention(_Attention):
    """Attention of each token of a sequence to all of another one.

    Maps queries, ``(N, L, C)``, and keys and values, ``(N, M, 2 * C)``, to ``(N, L, C)``.

    Args:
        heads: a divisor of C.
        scale: factor of the scores.
    """

    def __init__(self, heads: int, scale: float):
        super().__init__(heads, scale, _cross_loops)

    def construct(self, q, kv):
        if self.by_loops():
            settings = self.settings.astype(ms.float32)
            return self.loops(q.astype(ms.float32), kv.astype(ms.float32), settings).astype(q.dtype)
        _, length, channels = q.shape
        _, others, _ = kv.shape
        q = q.reshape(-1, length, self.heads, channels // self.heads).swapaxes(1, 2)  # (N, heads, L, C / heads)
        kv = kv.reshape(-1, others, 2, self.heads, channels // self.heads).transpose(2, 0, 3, 1, 4)
        k, v = ops.unstack(kv)  # (N, heads, M, C / heads) each
        return self.attend(q, k, v).swapaxes(1, 2).reshape(-1, length, channels)


class WindowAttention(_Attention):
    """Attention of each token of a map to those of its own window.

    Maps queries, keys and values, ``(B, H, W, 3 * C)``, to ``(B, H, W, C)``; H and W are multiples of the window.

    Args:
        heads: a divisor of C.
        scale: factor of the scores.
        window: side of a window, in tokens.
    """

    def __init__(self, heads: int, scale: float, window: int):
        super().__init__(heads, scale, _window_loops, window)

    def construct(self, qkv):
        if self.by_loops():
            return self.loops(qkv.astype(ms.float32), self.settings.astype(ms.float32)).astype(qkv.dtype)
        b, height, width, channels = qkv.shape
        side, rows, columns, heads = self.window, height // self.window, width // self.window, self.heads
        depth = channels // 3 // heads
        qkv = qkv.reshape(b * rows, side, columns, side, 3 * heads, depth)
        qkv = qkv.transpose(0, 2, 4, 1, 3, 5)  # (B * rows, columns, 3 * heads, side, side, depth)
        qkv = qkv.reshape(b * rows * columns, 3, heads, side * side, depth)
        q, k, v = ops.unstack(qkv, 1)  # (windows, heads, side * side, depth) each
        out = self.attend(q, k, v).reshape(b * rows, columns, heads, side, side, depth)
        return out.transpose(0, 3, 1, 4, 2, 5).reshape(b, height, width, channels // 3)


@functools.cache
def _self_loops(library: Path) -> Loops:
    def gradients(qkv, bias, settings, out, dout):
        return *differentiate(qkv, bias, settings, dout), ops.zeros_like(settings)

    differentiate = Loops(
        f"{library}:attention_gradient", lambda qkv, bias, *_: (qkv, bias), lambda qkv, bias, *_: (qkv, bias), "aot"
    )
    return Loops(
        f"{library}:attention", lambda qkv, *_: [*qkv[:2], qkv[2] // 3], lambda qkv, *_: qkv, "aot", bprop=gradients
    )


@functools.cache
def _cross_loops(library: Path) -> Loops:
    def gradients(q, kv, settings, out, dout):
        return *differentiate(q, kv, settings, dout), ops.zeros_like(settings)

    differentiate = Loops(
        f"{library}:cross_attention_gradient", lambda q, kv, *_: (q, kv), lambda q, kv, *_: (q, kv), "aot"
    )
    return Loops(f"{library}:cross_attention", lambda q, *_: q, lambda q, *_: q, "aot", bprop=gradients)


@functools.cache
def _window_loops(library: Path) -> Loops:
    def gradients(qkv, settings, out, dout):
        return differentiate(qkv, settings, dout), ops.zeros_like(settings)

    differentiate = Loops(f"{library}:window_attention_gradient", lambda qkv, *_: qkv, lambda qkv, *_: qkv, "aot")
    return Loops(
        f"{library}:window_attention", lambda qkv, *_: [*qkv[:3], qkv[3] // 3], lambda qkv, *_: qkv, "aot",
        bprop=gradients,
    )  # fmt: skip

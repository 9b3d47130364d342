"""Pooling in the form that is fastest on each back end."""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

_SOURCE = Path(__file__).with_suffix(".cc")


class GlobalAvgPool(nn.Cell):
    """The mean over the positions of a map, ``(B, C, H, W)`` to ``(B, C)``, or ``(B, C, 1, 1)`` with ``keep_dims``."""

    def __init__(self, keep_dims=False):
        super().__init__()
        self.keep_dims = keep_dims
        self.by_matmul = backend.average_by_matmul()

    def construct(self, x):
        if not self.by_matmul:
            return x.mean((2, 3), keep_dims=self.keep_dims)
        b, c, h, w = x.shape
        average = ops.full((h * w, 1), 1 / (h * w), dtype=x.dtype)
        means = ops.matmul(x.reshape(b * c, h * w), average)
        return means.reshape(b, c, 1, 1) if self.keep_dims else means.reshape(b, c)


class WindowMeans(nn.Cell):
    """Means over the windows of a map of tokens, ``(B, H, W, C)`` to ``(B, H * W / side**2, C)``, row by row.

    H and W are multiples of the side of a window. On the CPU, in graph mode, it is one operator in C++.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        library = backend.compile_library(_SOURCE)
        self.loops = library and _window_loops(library, side)
        self.sides = Tensor([side], ms.float32)

    def construct(self, x):
        if self.loops is not None and in_graph_mode():
            return self.loops(x.astype(ms.float32), self.sides.astype(ms.float32)).astype(x.dtype)
        b, height, width, c = x.shape
        rows = x.reshape(-1, self.side, width * c).mean(1)  # (B * H / side, W * C)
        return rows.reshape(-1, self.side, c).mean(1).reshape(b, height * width // self.side**2, c)


@functools.cache
def _window_loops(library: Path, side: int) -> Loops:
    def gradients(x, sides, out, dout):
        return differentiate(x, sides, dout), ops.zeros_like(sides)

    def shape(x, _):
        return x[0], x[1] * x[2] // side**2, x[3]

    differentiate = Loops(f"{library}:window_means_gradient", lambda x, *_: x, lambda x, *_: x, "aot")
    return Loops(f"{library}:window_means", shape, lambda x, _: x, "aot", bprop=gradients, attributes={"side": side})

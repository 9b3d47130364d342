"""Maps enlarged or reduced to a given size, in the form that is fastest on each back end.

The operators are called as they are: ``ops.interpolate`` chooses among them by branches that stay in a graph with a
dynamic batch, which no exported file can hold.
"""

import functools
from pathlib import Path

import mindspore as ms
from mindspore import nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["Enlarge", "ResizeLike", "resize", "resize_nearest"]

_SOURCE = Path(__file__).with_suffix(".cc")
_BILINEAR = ops.ResizeBilinearV2(align_corners=False, half_pixel_centers=True)
_NEAREST = ops.ResizeNearestNeighborV2()


def resize(x, height: int, width: int):
    """``(B, C, h, w)`` to ``(B, C, height, width)``, bilinear between pixel centres (PyTorch's align_corners False)."""
    _, _, h, w = x.shape  # a slice of the shape would be no constant where the batch is dynamic
    return x if (h, w) == (height, width) else _BILINEAR(x, (height, width))


def resize_nearest(x, height: int, width: int):
    """``(B, C, h, w)`` to ``(B, C, height, width)``: pixel ``i`` comes from ``floor(i * h / height)``."""
    return _NEAREST(x, (height, width))


class ResizeLike(nn.Cell):
    """:func:`resize` to the size of another tensor: ``(B, C, h, w)`` and ``(..., H, W)`` to ``(B, C, H, W)``.

    On the CPU, in graph mode, it is one operator in C++, and so is its gradient.
    """

    factor = 1

    def __init__(self):
        super().__init__()
        library = backend.compile_library(_SOURCE)
        self.loops = library and _resize_loops(library, self.factor)

    def construct(self, x, like):
        height, width = self.factor * like.shape[-2], self.factor * like.shape[-1]
        if self.loops is None or not in_graph_mode() or (x.shape[2] == height and x.shape[3] == width):
            return resize(x, height, width)
        return self.loops(x.astype(ms.float32), ops.stop_gradient(like)).astype(x.dtype)


class Enlarge(ResizeLike):
    """``(B, C, H, W)`` to ``(B, C, 2 * H, 2 * W)``, bilinear."""

    factor = 2

    def construct(self, x):
        return super().construct(x, x)


@functools.cache
def _resize_loops(library: Path, factor: int) -> Loops:
    def gradients(x, like, out, dout):
        return differentiate(dout, x), ops.zeros_like(like)

    def shape(x, like):
        return *x[:2], factor * like[-2], factor * like[-1]

    differentiate = Loops(f"{library}:resize_gradient", lambda _, x: x, lambda dout, _: dout, "aot")
    return Loops(
        f"{library}:resize", shape, lambda x, _: x, "aot", bprop=gradients, attributes={"factor": factor}
    )  # fmt: skip

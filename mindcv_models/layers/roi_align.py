"""RoIAlign (He et al., Mask R-CNN, ICCV 2017, section 3) over the levels of a feature pyramid.

Each bin of a region averages a grid of bilinear samples. The grid is separable, so a region's features are
``A_y F A_x^T`` with a map ``F`` and one matrix of weights an axis; its gradient is the transposed product. That form is
made of operators that every back end has. On the CPU loops in C++ do the same, over the cells of a region alone.
"""

from pathlib import Path
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["RoIAlign"]

FINEST = 56.0  # regions of up to twice this size, the root of their area, are taken from the finest level
# A bin of more than one cell has samples more than half a cell apart, so no cell meets more than 4 samples of a bin;
# one more is for the rounding of where they begin.
MEETING = 5
PART = 128  # regions that are pooled at a time by products, which bounds the memory

_SOURCE = Path(__file__).with_name("roi_align.cc")


class RoIAlign(nn.Cell):
    """Features of regions: maps ``(B, C, H_k, W_k)`` and boxes ``(B, R, 4)`` to ``(B, R, C, size, size)``, float32.

    Boxes are (x1, y1, x2, y2) in pixels of the image, pixel ``i`` from ``i`` to ``i + 1``; those of no area give zeros.
    Map ``k`` is used for the regions whose size, the root of their area, is at least ``56 * 2^k`` and no larger map's.
    Every bin has ``ceil(bin)`` samples an axis, evenly spread; samples more than one cell outside the map count as
    zeros, others are moved to the nearest cell. Boxes have no gradient.

    Args:
        size: bins along each axis.
        strides: of the maps, in pixels, finest first.
    """

    keeps_float32 = True

    def __init__(self, size: int, strides: Sequence[int] = (4, 8, 16, 32)):
        super().__init__()
        self.size, self.strides = size, tuple(strides)
        library = backend.compile_library(_SOURCE)
        self.loops = None if library is None else loops(library, size)

    def construct(self, maps, boxes):
        boxes = ops.stop_gradient(boxes.astype(ms.float32))
        maps = [maps[k].astype(ms.float32) for k in range(len(self.strides))]
        levels = self.levels(boxes)
        if self.loops is not None and in_graph_mode():
            return self.by_loops(maps, boxes, levels)
        pooled = 0
        for k in range(len(maps)):
            pooled = pooled + self.by_products(maps[k], boxes, levels == k, 1 / self.strides[k])
        return pooled

    def levels(self, boxes):
        """The index of the map that each of the boxes ``(B, R, 4)`` is taken from, ``(B, R)``, float32."""
        size = ops.sqrt((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])) / FINEST + 1e-6
        levels = ops.zeros_like(size)
        for k in range(1, len(self.strides)):
            levels = levels + (size >= 2.0**k).astype(ms.float32)
        return levels

    def by_products(self, x, boxes, chosen, scale):
        """The features of the regions ``chosen``, ``(B, R)``, on one map; zeros for the others."""
        h, w = x.shape[2:]
        rows = axis_weights(boxes[..., 1], boxes[..., 3], scale, self.size, h)  # (B, R, size, H)
        columns = axis_weights(boxes[..., 0], boxes[..., 2], scale, self.size, w)
        columns = columns * chosen.astype(ms.float32).reshape(*boxes.shape[:2], 1, 1)
        if h > w:  # the longer axis first: less is left
            return in_parts(x.transpose(0, 2, 3, 1), rows, columns)  # (B, H, W, C)
        return in_parts(x.transpose(0, 3, 2, 1), columns, rows).swapaxes(3, 4)

    def by_loops(self, maps, boxes, levels):
        b, c, _, _ = maps[0].shape
        planes = ops.concat([x.reshape(b, c, -1) for x in maps], 2)  # (B, C, cells of all levels)
        shapes = tuple([x.shape[2:] for x in maps])
        # A method of a cell in float16 gets its arguments in that, but the loops read float32.
        planes, boxes, levels = planes.astype(ms.float32), boxes.astype(ms.float32), levels.astype(ms.float32)
        return self.loops(planes, boxes, levels, _table(shapes, self.strides))


def in_parts(x, first, second):
    """Sums over both axes of ``x``, ``(B, M, N, C)``: ``(B, R, C, size, size)``.

    Args:
        first, second: the weights of the axes, ``(B, R, size, M)`` and ``(B, R, size, N)``.
    """
    b, m, n, c = x.shape
    _, r, size, _ = first.shape
    x = x.reshape(b, m, n * c)
    pooled = ()
    for k in range(0, r, PART):
        end = min(k + PART, r)
        part = ops.matmul(first[:, k:end].reshape(b, (end - k) * size, m), x)  # (B, part * size, N * C)
        part = part.reshape(b, end - k, size, n, c)
        part = ops.matmul(second[:, k:end].expand_dims(2), part)  # (B, part, first, second, C)
        pooled += (part.transpose(0, 1, 4, 2, 3),)
    return ops.concat(pooled, 1)


@ops.constexpr
def _table(shapes, strides):
    """Height, width and scale of each level, ``(K, 3)``."""
    return Tensor(np.array([(*shape, 1 / stride) for shape, stride in zip(shapes, strides)], np.float32))


def axis_weights(start, end, scale, size, cells, first=0.0, last=None):
    """The matrix of an axis for regions from ``start`` to ``end``, ``(B, R)``: ``(B, R, size, cells)``.

    Row ``i`` holds the weights of the cells in bin ``i``, the mean of its bilinear samples. Only few samples of a bin
    meet a cell; they are found by where the first of them must be, so that memory is that of the result.

    Args:
        first: number of the first cell, if only a part of the map is there; ``(B, R, 1, 1)`` or 0.
        last: number of the map's last cell, ``(B, 1, 1, 1)``; None if that is the last one here.
    """
    b, r = start.shape
    last = float(cells - 1) if last is None else last
    length = ((end - start) * scale).reshape(b, r, 1, 1)
    bin_size = length / size
    count = ops.maximum(ops.ceil(bin_size), 1.0)  # samples of a bin; those of a region of no length have no weight
    begin = (start * scale - 0.5).reshape(b, r, 1, 1) + _range(size).reshape(size, 1) * bin_size  # (B, R, size, 1)
    cell = first + _range(cells).reshape(1, cells)
    met = ops.floor((cell - 1 - begin) / ops.maximum(bin_size / count, 1e-6) - 0.5)
    met = ops.minimum(ops.maximum(met, 0.0), count - 1)  # the first sample that meets a cell, (B, R, size, cells)
    weights = 0
    for k in range(MEETING):
        sample = met + k
        place = begin + (sample + 0.5) * bin_size / count
        inside = ops.logical_and(ops.logical_and(place >= -1.0, place <= last + 1), sample < count)
        share = ops.relu(1 - ops.abs(ops.minimum(ops.maximum(place, 0.0), last) - cell))
        weights = weights + share * inside.astype(ms.float32)
    return weights / count * (length > 0).astype(ms.float32)


@ops.constexpr
def _range(count):
    return Tensor(np.arange(count, dtype=np.float32))


def loops(library: Path, size: int) -> Loops:
    """The operator ``(planes, boxes, levels, table)`` of ``roi_align.cc``, compiled, with its gradient."""

    def shape(planes, boxes, *_):
        return boxes[0], boxes[1], planes[1], size, size

    def gradients(planes, boxes, levels, table, out, dout):
        return gradient(planes, boxes, levels, table, dout), zeros(boxes), zeros(levels), zeros(table)

    zeros = ops.ZerosLike()
    gradient = Loops(f"{library}:roi_align_gradient", lambda planes, *_: planes, lambda planes, *_: planes, "aot")
    return Loops(
        f"{library}:roi_align", shape, lambda planes, *_: planes, "aot", bprop=gradients,
        attributes={"output_size": size},
    )  # fmt: skip

"""Anchors: the boxes from which a detector's outputs are counted, one set at every cell of every level."""

import functools
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

__all__ = ["RETINANET", "RPN", "Anchors", "retinanet_anchors"]

Size = Tuple[int, int]


@dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid; all values are float32 from the first step on.

    Their order is that of the network's rows: levels, rows of cells, cells; in a cell ratios, and scales within them.

    Attributes:
        strides: pixels between neighbouring cells of each level, finest first.
        scales: sides of square anchors, in strides.
        ratios: heights by widths.
    """

    strides: Tuple[int, ...]
    scales: Tuple[float, ...]
    ratios: Tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_cell(self) -> int:
        return len(self.scales) * len(self.ratios)

    def base(self, stride: int) -> np.ndarray:
        """The anchors of cell (0, 0), ``(per_cell, 4)``; their centre is the corner of the image."""
        size, half = np.float32(stride), np.float32(0.5)
        roots, scales = np.sqrt(np.array(self.ratios, np.float32)), np.array(self.scales, np.float32)
        heights = (size * roots[:, None] * scales).reshape(-1)
        widths = (size * (1 / roots)[:, None] * scales).reshape(-1)
        return np.stack([-half * widths, -half * heights, half * widths, half * heights], 1)

    def sizes(self, height: int, width: int) -> Tuple[Size, ...]:
        """Rows and columns of each level's map for an image whose sides are multiples of 32."""
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)

    @functools.lru_cache(maxsize=16)  # noqa: B019, for the few shapes of batches; instances are few and live long
    def all(self, sizes: Tuple[Size, ...]) -> np.ndarray:
        """Every anchor of maps of ``sizes``, ``(A, 4)``; do not write into it."""
        levels = []
        for stride, (rows, columns) in zip(self.strides, sizes):
            x, y = np.meshgrid(np.arange(columns) * stride, np.arange(rows) * stride)
            shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32)
            levels.append((shifts + self.base(stride)).reshape(-1, 4))
        return np.concatenate(levels)

    def valid(self, sizes: Sequence[Size], padded: Size) -> np.ndarray:
        """Which anchors' cells begin within an image's own padded size (height, width), ``(A,)``."""
        levels = []
        for stride, (rows, columns) in zip(self.strides, sizes):
            inside = np.zeros((rows, columns, self.per_cell), bool)
            inside[: -(-padded[0] // stride), : -(-padded[1] // stride)] = True
            levels.append(inside.reshape(-1))
        return np.concatenate(levels)

    def counts(self, sizes: Sequence[Size]) -> Tuple[int, ...]:
        """How many anchors each level has."""
        return tuple(rows * columns * self.per_cell for rows, columns in sizes)


@functools.lru_cache(maxsize=8)
def retinanet_anchors(scale: float = 4.0) -> Anchors:
    """RetinaNet's, three to an octave.

    Args:
        scale: side of the smallest, in strides.
    """
    return Anchors((8, 16, 32, 64, 128), tuple(scale * 2 ** (k / 3) for k in range(3)))


RETINANET = retinanet_anchors()
RPN = Anchors((4, 8, 16, 32, 64), (8.0,))

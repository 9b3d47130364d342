"""What a mask head is to answer for each region, within the graph (He et al., ICCV 2017, section 3).

Masks arrive as the packed crops of `masks.PackedMasks`: nothing of an image's size is made for each object by the data
workers, and little travels. A target is the part of its object's mask within a region, pooled as features are.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend
from ..layers.custom import Loops, in_graph_mode
from ..layers.roi_align import axis_weights
from .regions import rows_of

__all__ = ["MaskTargets"]

_SOURCE = Path(__file__).with_name("mask_targets.cc")


class MaskTargets(nn.Cell):
    """Regions and their objects' masks to targets ``(B, P, side, side)``, float32 of 1 and 0.

    Args:
        side: pixels along each side of a target.
    """

    def __init__(self, side: int = 28):
        super().__init__()
        self.side = side
        library = backend.compile_library(_SOURCE)
        self.loops = None
        if library is not None:
            self.loops = Loops(
                f"{library}:mask_targets", lambda x, *_: (x[0], x[1], side, side), lambda x, *_: x, "aot",
                attributes={"output_size": side},
            )  # fmt: skip

    def construct(self, regions, owners, crops, places, sizes, shape):
        """Pool the masks.

        Args:
            regions, owners: ``(B, P, 4)`` and ``(B, P)`` int32: each region's box and object.
            crops, places: ``(B, K)`` uint8 and ``(B, G, 5)`` int32, as in :class:`masks.PackedMasks`.
            sizes: height and width of each image with its own padding, ``(B, 2)`` float32.
            shape: height and width of the batch.
        """
        if self.loops is not None and in_graph_mode():
            return self.loops(regions, owners, crops, places, sizes)
        return self.by_products(regions, owners, crops, places, sizes, shape)

    def by_products(self, regions, owners, crops, places, sizes, shape):
        b, p = owners.shape
        offset, left, top, width, height = ops.unstack(rows_of(places, owners).reshape(b, p, 5, 1, 1), 2)
        stride = (width + 7) // 8
        rows, columns = _numbers(shape[0], 1), _numbers(1, -(-shape[1] // 8))
        inside = ops.logical_and(rows < height, columns < stride)
        index = ops.select(inside, offset + rows * stride + columns, ops.zeros_like(offset + rows * columns))
        packed = rows_of(crops.astype(ms.float32), index.reshape(b, -1)).reshape(index.shape)
        packed = packed * inside.astype(ms.float32)  # (B, P, H, bytes of W)
        pixels = bits(packed).reshape(b, p, shape[0], -1)
        last = sizes.reshape(b, 2, 1, 1, 1) - 1
        y = axis_weights(
            regions[..., 1], regions[..., 3], 1.0, self.side, pixels.shape[2], top.astype(ms.float32), last[:, 0]
        )
        x = axis_weights(
            regions[..., 0], regions[..., 2], 1.0, self.side, pixels.shape[3], left.astype(ms.float32), last[:, 1]
        )
        pooled = ops.matmul(ops.matmul(y, pixels), x.swapaxes(2, 3))
        return (pooled >= 0.5).astype(ms.float32)


def bits(packed):
    """The bits of whole numbers from 0 to 255, the highest first, on a new last axis."""
    shifted = ops.floor(packed.expand_dims(-1) * _powers())
    return shifted - 2 * ops.floor(shifted * 0.5)


@ops.constexpr
def _numbers(rows, columns):
    return Tensor(np.arange(rows * columns, dtype=np.int32).reshape(1, 1, rows, columns))


@ops.constexpr
def _powers():
    return Tensor((2.0 ** np.arange(-7, 1)).astype(np.float32))

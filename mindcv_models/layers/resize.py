"""Maps enlarged or reduced to a given size.

The operators are called as they are: ``ops.interpolate`` chooses among them by branches that stay in a graph with a
dynamic batch, which no exported file can hold.
"""

from mindspore import ops

__all__ = ["resize", "resize_nearest"]

_BILINEAR = ops.ResizeBilinearV2(align_corners=False, half_pixel_centers=True)
_NEAREST = ops.ResizeNearestNeighborV2()


def resize(x, height: int, width: int):
    """``(B, C, h, w)`` to ``(B, C, height, width)``, bilinear between pixel centres (PyTorch's align_corners False)."""
    _, _, h, w = x.shape  # a slice of the shape would be no constant where the batch is dynamic
    return x if (h, w) == (height, width) else _BILINEAR(x, (height, width))


def resize_nearest(x, height: int, width: int):
    """``(B, C, h, w)`` to ``(B, C, height, width)``: pixel ``i`` comes from ``floor(i * h / height)``."""
    return _NEAREST(x, (height, width))

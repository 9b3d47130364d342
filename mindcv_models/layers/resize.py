"""Maps enlarged or reduced to a given size."""

from mindspore import ops

__all__ = ["resize"]


def resize(x, height: int, width: int):
    """``(B, C, h, w)`` to ``(B, C, height, width)``, bilinear between pixel centres (PyTorch's align_corners False)."""
    _, _, h, w = x.shape  # a slice of the shape would be no constant where the batch is dynamic
    if (h, w) == (height, width):
        return x
    return ops.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)

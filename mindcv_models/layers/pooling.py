"""Pooling in the form that is fastest on each back end."""

from mindspore import nn, ops

from .. import backend


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

"""Convolutions that MindSpore offers, but too slowly on one of its back ends."""

import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend


def Conv2d(in_channels, out_channels, kernel_size, stride=1, *, group=1, **kwargs) -> nn.Conv2d:  # noqa: N802
    """``nn.Conv2d``, padded by half the kernel, in the form that is fastest on this back end."""
    large_depthwise = group == in_channels and group > 1 and kernel_size >= 7
    cell = StripConv2d if large_depthwise and backend.large_depthwise_in_strips() else nn.Conv2d
    return cell(
        in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2, group=group, **kwargs
    )


class StripConv2d(nn.Conv2d):
    """A depthwise convolution that computes strips of rows at a time; the same function and parameters.

    The CPU runs a depthwise convolution as one matrix-vector product a channel, over a copy of the input as large as
    the kernel. Here a strip of ``R`` output rows is the ``R`` channels of a convolution with stride ``R``, whose
    kernels are the original, each shifted down by a row: matrix products, over a copy about ``R`` times smaller.
    """

    rows = 8

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        (size, _), (stride, _) = self.kernel_size, self.stride
        self.tall = stride * (self.rows - 1) + size  # input rows that a strip sees
        self.shifts = _shifts(size, stride, self.rows, self.tall)

    def construct(self, x):
        (size, _), (stride, _), channels, rows = self.kernel_size, self.stride, self.out_channels, self.rows
        height = (x.shape[2] - 1) // stride + 1
        strips = (height - 1) // rows + 1
        margin = size // 2
        below = stride * (strips * rows - 1) + size - margin - x.shape[2]

        weight = ops.matmul(self.weight.reshape(channels, size * size), self.shifts)  # (C, R * tall * size)
        conv = ops.Conv2D(
            channels * rows, (self.tall, size), pad_mode="pad", pad=(margin, below, margin, margin),
            stride=(stride * rows, stride), group=self.group,
        )  # fmt: skip
        out = conv(x, weight.reshape(channels * rows, 1, self.tall, size))  # (B, C * R, strips, W)
        width = out.shape[3]
        if strips > 1:
            out = out.reshape(-1, channels, rows, strips, width).swapaxes(2, 3)  # (B, C, strips, R, W)
        out = out.reshape(-1, channels, strips * rows, width)
        if strips * rows > height:
            out = out[:, :, :height]  # (B, C, H, W)
        return self.bias_add(out, self.bias) if self.has_bias else out


def _shifts(size, stride, rows, tall) -> Tensor:
    """The 0/1 matrix that takes a flat kernel to its copies, ``(size * size, rows * tall * size)``."""
    matrix = np.zeros((size, size, rows, tall, size), np.float32)
    y, x, row = np.ogrid[:size, :size, :rows]
    matrix[y, x, row, row * stride + y, x] = 1
    return Tensor(matrix.reshape(size * size, -1))

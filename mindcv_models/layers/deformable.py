"""Deformable convolution (Dai et al., ICCV 2017, https://arxiv.org/abs/1703.06211) from gathers and one matrix product.

MindSpore's own operator is slower in training, cannot be exported and orders the offsets otherwise; ``grid_sample``
normalises its coordinates, which puts a sample that sits on a pixel now on one side of it and now on the other, and
with it the gradient of the offsets. Here rows of channels are gathered by integer indices: exact on every back end. On
the CPU, in graph mode, a cell's samples are one operator in C++.
"""

import functools
import math
from pathlib import Path
from typing import Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Uniform, initializer

from .. import backend
from .custom import Loops, in_graph_mode
from .products import products

_SOURCE = Path(__file__).with_suffix(".cc")

Pair = Tuple[int, int]


def deformable_conv2d(
    x, offset, weight, bias, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1
):
    """Convolve ``x`` with every tap of the kernel displaced by its own offset at every output position.

    Values between pixels are bilinear, pixels outside the map are zero. The gradient of an offset is the one-sided
    derivative towards larger coordinates where a sample sits exactly on a pixel, and zero from one pixel outside on.

    Args:
        x: map ``(B, C, H, W)``, any height and width.
        offset: displacements in pixels ``(B, G * kh * kw * 2, Ho, Wo)``, for ``G`` groups of channels that move
            together: channel ``(g * kh * kw + t) * 2`` is the vertical one of tap ``t``, the next the horizontal one.
            Taps count row by row.
        weight: ``(D, C / groups, kh, kw)``.
        bias: ``(D,)`` or None.

    Returns:
        ``(B, D, Ho, Wo)`` in the type of ``x``; computed in float32.
    """
    b, c, h, w = x.shape
    d, _, kh, kw = weight.shape
    _, offset_channels, ho, wo = offset.shape
    taps = kh * kw
    offset_groups = offset_channels // (2 * taps)
    maps, width = b * offset_groups, c // offset_groups  # what has offsets of its own
    moved = offset.astype(ms.float32).reshape(maps, kh, kw, 2, ho * wo)
    down, right = ops.unstack(moved.transpose(3, 0, 4, 1, 2))  # (B * G, Ho * Wo, kh, kw) each
    rows = down.reshape(maps, ho, wo, kh, kw) + _grid(ho, kh, stride[0], padding[0], dilation[0])[0]
    columns = right.reshape(maps, ho, wo, kh, kw) + _grid(wo, kw, stride[1], padding[1], dilation[1])[1]
    # One row of the table is one pixel's channels that move together: (B * G * H * W, C / G)
    table = x.astype(ms.float32).reshape(maps, width, h * w).swapaxes(1, 2).reshape(-1, width)
    first = _first_rows(maps, h * w)
    sampled = 0
    for row, row_share in _neighbours(rows, h):
        for column, column_share in _neighbours(columns, w):
            pixels = ops.gather(table, (first + row * w + column).reshape(-1), 0)
            sampled = sampled + pixels * (row_share * column_share).reshape(-1, 1)
    sampled = sampled.reshape(b, offset_groups, ho * wo, taps, width)
    return _contract(sampled, weight.astype(ms.float32), bias, groups).reshape(b, d, ho, wo).astype(x.dtype)


@ops.constexpr
def _grid(size, taps, stride, padding, dilation):
    """Where undisplaced taps lie along an axis: as rows ``(size, 1, taps, 1)``, as columns ``(size, 1, taps)``."""
    places = (np.arange(size)[:, None] * stride - padding + np.arange(taps) * dilation).astype(np.float32)
    return Tensor(places[:, None, :, None]), Tensor(places[:, None])


@ops.constexpr
def _first_rows(maps, pixels):
    """Where the rows of each map begin in the table, ``(maps, 1, 1, 1, 1)``."""
    return Tensor((np.arange(maps) * pixels).astype(np.int32).reshape(-1, 1, 1, 1, 1))


def _neighbours(position, size):
    """The pixels before and after ``position`` on an axis, as ``(index, share)``; outside the axis the share is 0."""
    low = ops.floor(position)
    fraction = position - low
    has_low = ops.logical_and(low >= 0, low <= size - 1)
    has_high = ops.logical_and(position > -1, low < size - 1)
    low = ops.minimum(ops.maximum(low, -1.0), float(size))  # far outside an int32, an index would wrap round
    return (
        (ops.minimum(ops.maximum(low, 0.0), size - 1.0).astype(ms.int32), (1 - fraction) * has_low.astype(ms.float32)),
        (ops.minimum(low + 1, size - 1.0).astype(ms.int32), fraction * has_high.astype(ms.float32)),
    )


def _contract(sampled, weight, bias, groups):
    """Multiply samples ``(B, G, P, taps, C / G)`` by the kernel and sum: ``(B, D, P)``."""
    b, offset_groups, positions, taps, _ = sampled.shape
    d, depth = weight.shape[:2]
    if offset_groups > 1 or groups > 1:
        sampled = sampled.transpose(0, 2, 3, 1, 4)  # (B, P, taps, G, C / G)
        sampled = sampled.reshape(b, positions, taps, groups, depth).transpose(
            3, 0, 1, 2, 4
        )  # (groups, B, P, taps, depth)
    sampled = sampled.reshape(groups, b * positions, taps * depth)
    kernel = weight.reshape(groups, d // groups, depth, taps).transpose(0, 3, 2, 1)  # (groups, taps, depth, D / groups)
    out = ops.matmul(sampled, kernel.reshape(groups, taps * depth, d // groups))  # (groups, B * P, D / groups)
    if groups > 1:
        out = out.swapaxes(0, 1)
    out = out.reshape(b, positions, d).swapaxes(1, 2)
    return out if bias is None else out + bias.astype(ms.float32).reshape(-1, 1)


def deform_by_operator(x, offset, weight, bias, stride, padding, dilation):
    """What :func:`deformable_conv2d` computes with one field of offsets, by MindSpore's operator."""
    _, offset_channels, ho, wo = offset.shape
    kh, kw = weight.shape[2:]
    vertical, horizontal = ops.unstack(offset.reshape(-1, offset_channels // 2, 2, ho, wo), 2)
    # The operator takes all horizontal offsets, then all vertical ones, then the factors of the taps, which are 1.
    moved = ops.concat((horizontal, vertical, ops.ones_like(vertical)), 1)
    return ops.deformable_conv2d(
        x, weight, moved, (kh, kw), (1, 1, *stride), (padding[0], padding[0], padding[1], padding[1]), bias,
        (1, 1, *dilation),
    )  # fmt: skip


class DeformByLoops(nn.Cell):
    """What :func:`deformable_conv2d` computes with one group of channels, on the CPU, in graph mode.

    The samples are one operator in C++, which the kernel then meets as a 1x1 convolution.
    """

    def __init__(self, library: Path, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair):
        super().__init__()
        self.sample = _sample_loops(library, math.prod(kernel_size))
        self.contract = products("products.cc", "pointwise")
        self.settings = Tensor([*kernel_size, *stride, *padding, *dilation], ms.float32)

    def construct(self, x, offset, weight, bias):
        single, settings = x.astype(ms.float32), self.settings.astype(ms.float32)
        sampled = self.sample(single, offset.astype(ms.float32), settings)  # (B, C * taps, Ho, Wo)
        weight = weight.astype(ms.float32).reshape(weight.shape[0], -1)  # (D, C * taps)
        return self.contract(sampled, weight, bias.astype(ms.float32)).astype(x.dtype)


@functools.cache
def _sample_loops(library: Path, taps: int) -> Loops:
    """Maps ``(B, C, H, W)``, offsets ``(B, G * taps * 2, Ho, Wo)`` and settings to ``(B, C * taps, Ho, Wo)``."""

    def shape(x, offset, *_):
        return x[0], x[1] * taps, *offset[2:]

    def first(x, *_):
        return x

    def second(_, offset, *__):
        return offset

    def gradients(x, offset, settings, out, dout):
        to_offset = differentiate_places(x, offset, settings, dout)
        return differentiate(x, offset, settings, dout), to_offset, ops.zeros_like(settings)

    differentiate = Loops(f"{library}:samples_gradient", first, first, "aot")
    differentiate_places = Loops(f"{library}:offsets_gradient", second, second, "aot")
    return Loops(f"{library}:samples", shape, first, "aot", bprop=gradients, attributes={"taps": taps})


class DeformableConv2d(nn.Cell):
    """A deformable convolution whose offsets an ordinary convolution, ``conv_offset``, predicts from the same map.

    ``(B, C, H, W)`` to ``(B, D, Ho, Wo)``. The offsets start at zero, where it is an ordinary convolution.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1):
        super().__init__()
        self.by_operator = backend.deform_by_operator()
        self.stride, self.padding, self.dilation = (stride, stride), (padding, padding), (dilation, dilation)
        library = backend.compile_library(_SOURCE)
        geometry = (kernel_size, kernel_size), self.stride, self.padding, self.dilation
        self.loops = library and DeformByLoops(library, *geometry)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), shape))
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = Parameter(initializer(Uniform(bound), (out_channels,)))
        self.conv_offset = nn.Conv2d(
            in_channels, 2 * kernel_size**2, kernel_size, stride, pad_mode="pad", padding=padding, dilation=dilation,
            has_bias=True, weight_init="zeros", bias_init="zeros",
        )  # fmt: skip

    def construct(self, x):
        offset = self.conv_offset(x)
        if self.loops is not None and in_graph_mode():
            return self.loops(x, offset, self.weight, self.bias)
        convolve = deform_by_operator if self.by_operator else deformable_conv2d
        return convolve(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation)

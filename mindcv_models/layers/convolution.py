"""Convolutions that MindSpore offers, but too slowly on one of its back ends."""

from typing import Optional

import mindspore as ms
from mindspore import nn

from .. import backend
from .custom import Loops, in_graph_mode
from .products import depthwise, no_bias, normalized, products

_DEPTHWISE = ((1, 1), (1, 2), (3, 1), (3, 2), (7, 1), (7, 2))  # sizes of the kernel and strides
_FEWEST_CHANNELS = 8  # of a 3x3 convolution by loops: with fewer, the gradient of its weight leaves lanes empty


def Conv2d(in_channels, out_channels, kernel_size, stride=1, *, group=1, **kwargs) -> nn.Conv2d:  # noqa: N802
    """``nn.Conv2d``, padded by half the kernel, in the form that is fastest on this back end."""
    options = {"pad_mode": "pad", "padding": kernel_size // 2, "group": group, **kwargs}
    loops = _loops(in_channels, kernel_size, stride, group)
    if loops is not None:
        return LoopConv2d(loops, in_channels, out_channels, kernel_size, stride, **options)
    cell = FusibleConv2d if backend.fuse_elementwise() else nn.Conv2d
    return cell(in_channels, out_channels, kernel_size, stride, **options)


class FusibleConv2d(nn.Conv2d):
    """A convolution whose bias is plain arithmetic in evaluation, fused with what follows."""

    def construct(self, x):
        out = self.conv2d(x, self.weight)
        # No method of its own: in O1, MindSpore's parser does not find one through the casting cell.
        if self.has_bias:
            out = self.bias_add(out, self.bias) if self.training else out + self.bias.reshape(-1, 1, 1)
        return out


class LoopConv2d(nn.Conv2d):
    """A convolution with its bias by loops in C++, faster than the CPU's own; same function and parameters.

    In graph mode only: eagerly, MindSpore starts such an operator before its inputs have been computed.

    Args:
        loops: maps ``(B, C, H, W)``, weight ``(D, C / group, K, K)`` and bias ``(D,)`` to the result.
    """

    def __init__(self, loops: Loops, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loops, self.normalized = loops, normalized(loops)
        self.no_bias = None if self.has_bias else no_bias(self.out_channels)

    def construct(self, x):
        if not in_graph_mode():
            return super().construct(x)
        bias = self.bias if self.has_bias else self.no_bias
        return self.loops(x.astype(ms.float32), self.weight.astype(ms.float32), bias.astype(ms.float32)).astype(x.dtype)


def conv_norm(conv, norm, x):
    """``norm(conv(x))``, where ``norm`` is batch normalisation: in inference one operator, where there are loops."""
    # Within a cell that casts, neither has attributes of its own.
    is_one = getattr(conv, "normalized", None) is not None and hasattr(norm, "settings")
    if norm.training or not is_one or not in_graph_mode():
        return norm(conv(x))
    bias = conv.bias if conv.has_bias else conv.no_bias
    convolution = x.astype(ms.float32), conv.weight.astype(ms.float32), bias.astype(ms.float32)
    statistics = norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance, norm.settings
    return conv.normalized(*convolution, *statistics).astype(x.dtype)


def _loops(in_channels, size, stride, group) -> Optional[Loops]:
    """The loops for a form of convolution; None if there are none, here or at all."""
    if group == in_channels > 1 and (size, stride) in _DEPTHWISE:
        return depthwise(size, stride)
    if group == 1 and size == 3 and stride in (1, 2) and in_channels >= _FEWEST_CHANNELS:
        return products("convolution.cc", f"convolve_{stride}", stride)
    if group == 1 and size == stride == 1:
        return products("products.cc", "pointwise")
    return None

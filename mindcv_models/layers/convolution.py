"""Convolutions that MindSpore offers, but too slowly on one of its back ends."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from .. import backend
from .custom import Loops, in_graph_mode

_SOURCE = Path(__file__).with_name("depthwise.cc")


def Conv2d(in_channels, out_channels, kernel_size, stride=1, *, group=1, **kwargs) -> nn.Conv2d:  # noqa: N802
    """``nn.Conv2d``, padded by half the kernel, in the form that is fastest on this back end."""
    known = group == in_channels and group > 1 and (kernel_size, stride) in DepthwiseConv2d.forms
    library = backend.compile_library(_SOURCE) if known else None
    options = {"pad_mode": "pad", "padding": kernel_size // 2, "group": group, **kwargs}
    if library is None:
        cell = FusibleConv2d if backend.fuse_elementwise() else nn.Conv2d
        return cell(in_channels, out_channels, kernel_size, stride, **options)
    return DepthwiseConv2d(library, in_channels, out_channels, kernel_size, stride, **options)


class FusibleConv2d(nn.Conv2d):
    """A convolution whose bias is plain arithmetic in evaluation, fused with what follows."""

    def construct(self, x):
        out = self.conv2d(x, self.weight)
        # No method of its own: in O1, MindSpore's parser does not find one through the casting cell.
        if self.has_bias:
            out = self.bias_add(out, self.bias) if self.training else out + self.bias.reshape(-1, 1, 1)
        return out


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution by loops in C++, 3 to 5 times as fast as the CPU's own; same function and parameters.

    In graph mode only: eagerly, MindSpore starts such an operator before its inputs have been computed.

    Args:
        library: ``depthwise.cc``, compiled.
    """

    forms = ((3, 1), (3, 2), (7, 1), (7, 2))  # sizes of the kernel and strides

    def __init__(self, library: Path, *args, **kwargs):
        super().__init__(*args, **kwargs)
        form = f"{self.kernel_size[0]}_{self.stride[0]}"
        channels, stride = self.out_channels, self.stride[0]

        def shape(x, *_):
            return x[0], channels, (x[2] - 1) // stride + 1, (x[3] - 1) // stride + 1

        def gradients(x, weight, bias, out, dout):
            return differentiate(x, weight, dout)

        differentiate = Loops(
            f"{library}:differentiate_{form}",
            lambda x, weight, _: (x, weight, weight[:1]), lambda x, weight, _: (x, weight, weight), "aot",
        )  # fmt: skip
        self.loops = Loops(f"{library}:convolve_{form}", shape, lambda x, *_: x, "aot", bprop=gradients)
        self.no_bias = Tensor(np.zeros(channels, np.float32))

    def construct(self, x):
        if not in_graph_mode():
            return super().construct(x)
        bias = self.bias if self.has_bias else self.no_bias
        out = self.loops(x.astype(ms.float32), self.weight.astype(ms.float32), bias.astype(ms.float32))
        return out.astype(x.dtype)

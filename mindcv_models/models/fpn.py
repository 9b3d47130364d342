"""Feature pyramid network: maps of one width at every scale, from the maps of any backbone.

Paper: Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144. Attribute names are those of the official LITv2
detectors and segmenters: ``lateral_convs.k.conv`` and ``fpn_convs.k.conv``. There is no normalisation and no
activation.
"""

from typing import Sequence

from mindspore import nn, ops
from mindspore.common.initializer import HeNormal, XavierUniform

from ..errors import InputError
from ..layers import Conv2d, resize_nearest

__all__ = ["FPN", "ConvModule"]

INITIALIZERS = {"xavier": XavierUniform, "kaiming": lambda: HeNormal(mode="fan_out", nonlinearity="relu")}
EXTRA = {None: 0, "pool": 1, "conv_on_input": 2}  # levels added to the backbone's


class ConvModule(nn.Cell):
    """A convolution with bias, padded by half its kernel, under the name ``conv``; then ReLU if ``relu``.

    ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, weight_init="xavier_uniform", relu=False):
        super().__init__()
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride,
            has_bias=True, weight_init=weight_init, bias_init="zeros",
        )  # fmt: skip
        self.relu = relu

    def construct(self, x):
        x = self.conv(x)
        return ops.relu(x) if self.relu else x


class FPN(nn.Cell):
    """Maps ``(B, in_channels[k], H_k, W_k)``, finest first, to a tuple of maps ``(B, out_channels, H_k, W_k)``.

    Each map passes a 1x1 convolution, gets the sum of all coarser ones, enlarged to its exact size, and passes a 3x3
    convolution.

    Args:
        in_channels: widths of the backbone's maps, at least one.
        out_channels: width of every output.
        extra: levels after the last. "conv_on_input": two, by 3x3 convolutions of stride 2, the first of which sees
            the backbone's last map, the second the output of the first (RetinaNet). "pool": one, every second pixel of
            the last output (Mask R-CNN). None: none (Semantic FPN).
        init: "xavier" (uniform) or "kaiming" (normal by the fan-out), for the weights; biases are 0.

    Attributes:
        out_channels: width of each output, a list, extra levels included.

    Raises:
        InputError: an argument has none of these values.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256, extra=None, init: str = "xavier"):
        super().__init__()
        if not in_channels:
            raise InputError("FPN: in_channels is empty; give the width of at least one map of the backbone.")
        if extra not in EXTRA:
            raise InputError(f'FPN: extra={extra!r}; choose "conv_on_input", "pool" or None.')
        if init not in INITIALIZERS:
            raise InputError(f"FPN: init={init!r}; choose from {', '.join(INITIALIZERS)}.")
        self.extra = extra
        self.out_channels = [out_channels] * (len(in_channels) + EXTRA[extra])

        def conv(channels, kernel_size, stride=1):
            return ConvModule(channels, out_channels, kernel_size, stride, INITIALIZERS[init]())

        self.lateral_convs = nn.CellList([conv(channels, 1) for channels in in_channels])
        fpn_convs = [conv(out_channels, 3) for _ in in_channels]
        if extra == "conv_on_input":
            fpn_convs += [conv(in_channels[-1], 3, 2), conv(out_channels, 3, 2)]
        self.fpn_convs = nn.CellList(fpn_convs)
        self.levels = len(in_channels)
        self.every_second = nn.AvgPool2d(1, 2)  # as a slice with steps it has no gradient eagerly on the CPU

    def construct(self, maps):
        laterals = [self.lateral_convs[k](maps[k]) for k in range(self.levels)]
        for k in range(self.levels - 1, 0, -1):
            _, _, height, width = laterals[k - 1].shape
            laterals[k - 1] = laterals[k - 1] + resize_nearest(laterals[k], height, width)
        outputs = [self.fpn_convs[k](laterals[k]) for k in range(self.levels)]
        if self.extra == "conv_on_input":
            outputs.append(self.fpn_convs[self.levels](maps[-1]))
            outputs.append(self.fpn_convs[self.levels + 1](outputs[-1]))
        elif self.extra == "pool":
            outputs.append(self.every_second(outputs[-1]))
        return tuple(outputs)

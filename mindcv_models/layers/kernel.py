"""The algebra of structural reparameterization: linear branches as convolution kernels that can be added up.

Reparameterization as in Ding et al., RepVGG, CVPR 2021, section 3.3, and FastViT, section 3.2. All arithmetic is
float64; rounding to the network's type happens once, when the final convolution is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn

from .convolution import Conv2d


@dataclass(frozen=True)
class Kernel:
    """A convolution's weight ``(out, in / groups, k, k)`` and bias ``(out,)``, in evaluation mode."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def identity(cls, channels: int, size: int, groups: int) -> Kernel:
        """The convolution that returns its input."""
        weight = np.zeros((channels, channels // groups, size, size))
        index = np.arange(channels)
        weight[index, index % (channels // groups), size // 2, size // 2] = 1
        return cls(weight, np.zeros(channels))

    @classmethod
    def of_conv(cls, conv: nn.Conv2d) -> Kernel:
        """The convolution itself, with or without a bias."""
        weight = _float64(conv.weight)
        return cls(weight, _float64(conv.bias) if conv.has_bias else np.zeros(len(weight)))

    def then_norm(self, norm: nn.BatchNorm2d) -> Kernel:
        """This kernel followed by a batch normalisation with its running statistics."""
        gain = _float64(norm.gamma) / np.sqrt(_float64(norm.moving_variance) + norm.eps)
        scaled = self.scale(gain)
        return Kernel(scaled.weight, scaled.bias + _float64(norm.beta) - _float64(norm.moving_mean) * gain)

    def scale(self, factor: np.ndarray) -> Kernel:
        """Multiply output channel ``i`` by ``factor[i]``."""
        factor = np.asarray(factor, np.float64).reshape(-1)
        return Kernel(self.weight * factor[:, None, None, None], self.bias * factor)

    def pad(self, size: int) -> Kernel:
        """The same convolution with a kernel of ``size`` x ``size``, zeros around it."""
        margin = (size - self.weight.shape[-1]) // 2
        return Kernel(np.pad(self.weight, ((0, 0), (0, 0), (margin, margin), (margin, margin))), self.bias)

    def __add__(self, other: Kernel) -> Kernel:
        return Kernel(self.weight + other.weight, self.bias + other.bias)

    def __sub__(self, other: Kernel) -> Kernel:
        return Kernel(self.weight - other.weight, self.bias - other.bias)

    def conv(self, like: nn.Conv2d) -> nn.Conv2d:
        """A convolution with bias that computes this kernel, with the stride, groups and type of ``like``."""
        return Conv2d(
            like.in_channels,
            like.out_channels,
            self.weight.shape[-1],
            like.stride[0],
            group=like.group,
            has_bias=True,
            weight_init=Tensor(self.weight, like.weight.dtype),
            bias_init=Tensor(self.bias, like.weight.dtype),
            dtype=like.weight.dtype,
        )


def _float64(parameter) -> np.ndarray:
    return parameter.asnumpy().astype(np.float64)

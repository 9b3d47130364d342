"""Blocks that two families use, and nothing that only one does."""

from .activation import GELU
from .convolution import Conv2d, DepthwiseConv2d
from .deformable import DeformableConv2d, deformable_conv2d
from .drop_path import DropPath, DropPathDraws
from .kernel import Kernel
from .normalization import BatchNorm2d, ChannelNorm, LayerNorm
from .pooling import GlobalAvgPool
from .resize import resize

__all__ = [
    "GELU",
    "BatchNorm2d",
    "ChannelNorm",
    "Conv2d",
    "DeformableConv2d",
    "DepthwiseConv2d",
    "DropPath",
    "DropPathDraws",
    "GlobalAvgPool",
    "Kernel",
    "LayerNorm",
    "deformable_conv2d",
    "resize",
]

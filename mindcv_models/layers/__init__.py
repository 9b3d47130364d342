"""Blocks that two families use, and nothing that only one does."""

from .activation import GELU
from .convolution import Conv2d, StripConv2d
from .deformable import DeformableConv2d, deformable_conv2d
from .drop_path import DropPath, DropPathDraws
from .kernel import Kernel

__all__ = [
    "GELU",
    "Conv2d",
    "DeformableConv2d",
    "DropPath",
    "DropPathDraws",
    "Kernel",
    "StripConv2d",
    "deformable_conv2d",
]

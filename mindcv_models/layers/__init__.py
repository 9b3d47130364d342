"""Blocks that two families use, and nothing that only one does."""

from .activation import GELU
from .deformable import DeformableConv2d, deformable_conv2d
from .kernel import Kernel

__all__ = ["GELU", "DeformableConv2d", "Kernel", "deformable_conv2d"]

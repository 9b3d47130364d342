"""Blocks that two families use, and nothing that only one does."""

from .activation import GELU
from .kernel import Kernel

__all__ = ["GELU", "Kernel"]

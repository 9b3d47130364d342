"""Checkpoints: PyTorch files into networks, and this project's own files, read strictly and written safely."""

from .average import load_average
from .files import EMA_PREFIX, load_backbone, load_weights, save_checkpoint
from .fit import LoadReport
from .official import create_pretrained, creator
from .torch_weights import load_torch_checkpoint

__all__ = [
    "EMA_PREFIX",
    "LoadReport",
    "create_pretrained",
    "creator",
    "load_average",
    "load_backbone",
    "load_torch_checkpoint",
    "load_weights",
    "save_checkpoint",
]

"""Checkpoints: PyTorch files into networks, and this project's own files, read strictly and written safely."""

from .torch_weights import LoadReport, load_torch_checkpoint

__all__ = ["LoadReport", "load_torch_checkpoint"]

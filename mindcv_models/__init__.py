"""FastViT, FasterViT and LITv2 for MindSpore. Importing this registers every model in MindCV's registry."""

from . import fastervit, fastvit, litv2
from .checkpoint import load_torch_checkpoint
from .factory import create_model, list_models
from .reparameterize import reparameterize

__all__ = ["create_model", "fastervit", "fastvit", "list_models", "litv2", "load_torch_checkpoint", "reparameterize"]

"""FastViT, FasterViT and LITv2 for MindSpore. Importing this registers every model in MindCV's registry."""

from . import fastvit
from .checkpoint import load_torch_checkpoint
from .factory import create_model, list_models
from .reparameterize import reparameterize

__all__ = ["create_model", "fastvit", "list_models", "load_torch_checkpoint", "reparameterize"]

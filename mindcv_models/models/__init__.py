"""The networks, a family a file, and their registry. Importing this registers them with MindCV."""

from . import fastervit, fastvit, litv2, mask_rcnn, retinanet, semantic_fpn
from .registry import config_of, create_model, list_models

__all__ = [
    "config_of",
    "create_model",
    "fastervit",
    "fastvit",
    "list_models",
    "litv2",
    "mask_rcnn",
    "retinanet",
    "semantic_fpn",
]

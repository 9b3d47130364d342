"""Images: which files there are, how one is decoded, in which order they come."""

from .files import IMAGE_SUFFIXES, LAYOUT
from .images import STANDARD_DATASETS, list_images

__all__ = ["IMAGE_SUFFIXES", "LAYOUT", "STANDARD_DATASETS", "list_images"]

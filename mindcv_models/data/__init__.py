"""Images: which files there are, how one is decoded, in which order they come, and batches of them."""

from .files import IMAGE_SUFFIXES, LAYOUT
from .images import Picture, UnreadableImageError, decode
from .loader import Loader
from .order import EpochOrder, GroupedOrder, ShareOrder, StepsOrder

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUT",
    "EpochOrder",
    "GroupedOrder",
    "Loader",
    "Picture",
    "ShareOrder",
    "StepsOrder",
    "UnreadableImageError",
    "decode",
]

"""Preprocessing and class names that a user of an exported file needs."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Tuple

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of an image, and the classes of the logits.

    The shorter side (``crop_mode`` ``"center"``) or both sides (``"squash"``) are resized to ``image_size / crop_pct``,
    the centre of ``image_size`` is cropped, ``mean`` is subtracted from the RGB channels, 0 to 255, and the result is
    divided by ``std``.

    Attributes:
        image_size: height and width in pixels.
        class_names: in the order of the logits, or None if unknown.
    """

    model: str
    image_size: Tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    class_names: Optional[Tuple[str, ...]] = None

    def metadata(self) -> Dict[str, Any]:
        """The JSON object that is stored in the file."""
        return {"layout": "NCHW", "channels": "RGB", "scale": [0, 255], **asdict(self)}

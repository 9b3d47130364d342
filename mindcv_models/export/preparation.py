"""What whoever runs an exported file has to know of its images and classes."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Tuple

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Preparation:
    """How an image becomes input, and what the logits stand for.

    The short side (``crop_mode`` ``"center"``) or each side (``"squash"``) is resized to ``image_size / crop_pct``, the
    centre of ``image_size`` is cut out, and each channel of RGB, 0 to 255, is shifted by ``mean`` and divided by
    ``std``.

    Attributes:
        image_size: height and width in pixels.
        class_names: in the order of the logits, or None where they are not known.
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
        """As it travels in the file, in JSON."""
        return {"layout": "NCHW", "channels": "RGB", "scale": [0, 255], **asdict(self)}

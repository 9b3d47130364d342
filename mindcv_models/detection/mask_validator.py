"""Average precision of boxes and masks on a data set, each image once whatever the number of devices."""

from typing import Any, Dict, List, Tuple

import numpy as np
from pycocotools import mask as coco

from .coco import Annotated
from .evaluate import NAMES
from .mask_predict import Instances, MaskDetector
from .validator import DetectionValidator

__all__ = ["MaskValidator", "run_lengths"]


def run_lengths(bitmap: np.ndarray) -> Dict[str, Any]:
    """A bitmap ``(height, width)`` as COCO's compressed run lengths."""
    encoded = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(bitmap.shape), "counts": encoded["counts"].decode("ascii")}


class MaskValidator(DetectionValidator):
    """Validates a Mask R-CNN on a data set; see :class:`mindcv_models.evaluation.Validator`."""

    detector = MaskDetector
    kinds: Dict[str, str] = {"box": "bbox", "mask": "segm"}
    columns: Tuple[str, ...] = tuple(f"{kind}_{name}" for kind in kinds for name in NAMES)

    def results_of(self, image: Annotated, found: Instances) -> List[Dict[str, Any]]:
        results = super().results_of(image, found)
        for result, bitmap in zip(results, found.bitmaps((image.height, image.width))):
            result["segmentation"] = run_lengths(bitmap)
        return results

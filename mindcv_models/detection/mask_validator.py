"""Average precision of boxes and masks on a data set, each image once whatever the number of devices."""

from typing import Any, Dict, List, Tuple

from ..errors import InputError
from .coco import Annotated, CocoSet
from .evaluate import NAMES
from .mask_predict import Instances, MaskDetector
from .masks import RunLengths, run_lengths
from .validator import DetectionValidator

__all__ = ["MaskValidator", "check_masks"]


class MaskValidator(DetectionValidator):
    """Validates a Mask R-CNN on a data set; see :class:`mindcv_models.evaluation.Validator`.

    Raises:
        InputError: an annotation has no mask, or one that makes no sense.
    """

    detector = MaskDetector
    kinds: Dict[str, str] = {"box": "bbox", "mask": "segm"}
    columns: Tuple[str, ...] = tuple(f"{kind}_{name}" for kind in kinds for name in NAMES)

    def __init__(self, network, data: CocoSet, *args, **kwargs):
        super().__init__(network, data, *args, **kwargs)
        sizes = {image.id: (image.height, image.width) for image in data.images}
        for entry in self.truth.coco.dataset["annotations"]:  # crowds too, which pycocotools draws as they are
            if not entry.get("segmentation"):
                raise InputError(
                    f"{data.path}: annotation {entry['id']} has no segmentation, but masks are validated with it: give "
                    "a file with masks, or train a RetinaNet."
                )
            try:
                RunLengths.of(entry["segmentation"], *sizes[entry["image_id"]])
            except InputError as error:
                raise InputError(f"{data.path}: annotation {entry['id']}: {error}") from error

    def results_of(self, image: Annotated, found: Instances) -> List[Dict[str, Any]]:
        results = super().results_of(image, found)
        for result, bitmap in zip(results, found.bitmaps((image.height, image.width))):
            result["segmentation"] = run_lengths(bitmap)
        return results


def check_masks(path: str, results: List[Dict[str, Any]], data: CocoSet) -> None:
    """Refuse a file of results with a mask that makes no sense.

    Raises:
        InputError: it names the file and the place of the result.
    """
    images = {image.id: image for image in data.images}
    for place, result in enumerate(results):
        image = images[result["image_id"]]
        try:
            RunLengths.of(result["segmentation"], image.height, image.width)
        except InputError as error:
            raise InputError(f"{path}: result {place}: {error}") from error

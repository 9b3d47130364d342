"""Average precision as COCO defines it, by pycocotools."""

import contextlib
import copy
import io
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..errors import InputError, shown
from ..files import read_json
from .coco import LARGEST_FILE, Category, CocoSet, is_number, load
from .predict import Detections

__all__ = ["NAMES", "Evaluation", "GroundTruth", "read_results", "to_results"]

# pycocotools' twelve figures, by their places.
NAMES = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5, "ar": 8}
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Evaluation:
    """What pycocotools finds.

    Attributes:
        values: shares from 0 to 1 by the names of :data:`NAMES`; NaN where there is no such object.
        per_class: AP, AP50 and AR of each class, ``(classes, 3)``; NaN for a class without objects.
        precision: at 101 recalls, ``(thresholds, 101, classes)``; -1 for a class without objects.
    """

    values: Dict[str, float]
    per_class: np.ndarray
    precision: np.ndarray

    def curve(self, threshold: Optional[float] = None) -> np.ndarray:
        """Mean precision over the classes that have objects, ``(101,)``; at one IoU, or over all of them."""
        chosen = self.precision
        if threshold is not None:
            chosen = chosen[[int(np.argmin(np.abs(THRESHOLDS - threshold)))]]
        known = (self.precision >= 0).any((0, 1))
        return chosen[:, :, known].mean((0, 2)) if known.any() else np.zeros(len(RECALLS))


class GroundTruth:
    """What there is to be found in a data set.

    Args:
        data: whose images count, and whose file has the annotations.

    Raises:
        InputError: nothing is annotated.
    """

    def __init__(self, data: CocoSet):
        self.categories = data.categories
        self.image_ids = [image.id for image in data.images]
        wanted = set(self.image_ids)
        content = load(data.path)
        annotations = [dict(entry) for entry in content["annotations"] if entry["image_id"] in wanted]
        if not annotations:
            raise InputError(
                f"{data.path} has no annotations, so there is nothing to validate with: give another file."
            )
        for entry in annotations:
            entry.setdefault("iscrowd", 0)
            entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
        self.coco = index(
            {
                "info": {},
                "images": [{"id": i.id, "height": i.height, "width": i.width} for i in data.images],
                "annotations": annotations,
                "categories": [{"id": c.id, "name": c.name} for c in data.categories],
            }
        )

    def evaluate(self, results: List[Dict[str, Any]], kind: str = "bbox") -> Evaluation:
        """The figures of results in COCO's format.

        Args:
            kind: "bbox" or "segm".
        """
        with contextlib.redirect_stdout(io.StringIO()):
            found = self.coco.loadRes(copy.deepcopy(results)) if results else self._nothing()
            run = COCOeval(self.coco, found, kind)
            run.params.imgIds = sorted(self.image_ids)
            run.params.catIds = [category.id for category in self.categories]
            run.evaluate()
            run.accumulate()
            run.summarize()
        values = {name: _share(run.stats[place]) for name, place in NAMES.items()}
        precision, recall = run.eval["precision"][:, :, :, 0, 2], run.eval["recall"][:, :, 0, 2]
        known = (precision >= 0).any((0, 1))
        columns = np.stack([precision.mean((0, 1)), precision[0].mean(0), recall.mean(0)], 1)
        return Evaluation(values, np.where(known[:, None], columns, np.nan), precision)

    def _nothing(self):
        return index({**self.coco.dataset, "annotations": []})


def index(dataset: Dict[str, Any]) -> COCO:
    """pycocotools' index over a data set in memory; it prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def _share(value) -> float:
    return float(value) if value >= 0 else float("nan")


def to_results(image: int, found: Detections, categories: Sequence[Category]) -> List[Dict[str, Any]]:
    """The detections of one image in COCO's format of results: boxes are x, y, width and height."""
    sides = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    return [
        {
            "image_id": int(image),
            "category_id": categories[label].id,
            "bbox": [float(side) for side in box],
            "score": float(score),
        }
        for box, score, label in zip(sides, found.scores, found.labels)
    ]


def read_results(path, truth: GroundTruth) -> List[Dict[str, Any]]:
    """A file of results in COCO's format, as ``--save_results`` writes it.

    Raises:
        InputError: it is missing or damaged, or of another data set.
    """
    results = read_json(path, "file of results", LARGEST_FILE)
    if not isinstance(results, list):
        raise InputError(f"{path} holds a {type(results).__name__}, but results are a list of detections.")
    images, categories = set(truth.image_ids), {category.id for category in truth.categories}
    for place, entry in enumerate(results):
        problem = _problem(entry, images, categories)
        if problem:
            raise InputError(f"{path}: result {place} {problem}.")
    return results


def _problem(entry, images, categories) -> str:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, but must have image_id, category_id, bbox and score"
    for key, known in (("image", images), ("category", categories)):
        value = entry.get(f"{key}_id")
        if not isinstance(value, int) or value not in known:
            return f"is of {key} {shown(value)}, which is not in the annotations"
    numbers = [*(entry["bbox"] if isinstance(entry.get("bbox"), list) else [None]), entry.get("score")]
    if len(numbers) != 5 or not all(map(is_number, numbers)):
        return "must have a bbox of four numbers and a score"
    return ""


def table(evaluation: Evaluation, categories: Sequence[Category]) -> List[Tuple[str, float, float, float]]:
    """AP, AP50 and AR of every class by its name."""
    return [(category.name, *row) for category, row in zip(categories, evaluation.per_class.tolist())]

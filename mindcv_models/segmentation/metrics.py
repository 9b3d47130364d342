"""Scores of label maps: counts of pixels, summed over all images before anything is divided."""

from dataclasses import dataclass
from typing import Dict

import numpy as np

from .transforms import IGNORED

__all__ = ["Scores", "confusion_matrix"]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """``(classes, classes)`` int64: pixels of each labelled class (row) by predicted class (column).

    Args:
        labels, predicted: integers of one shape; pixels labelled ``IGNORED`` are left out.
    """
    counts = labels != IGNORED
    cells = labels[counts].astype(np.int64) * classes + predicted[counts]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; shares, 0 to 1, NaN where nothing is to be divided.

    Attributes:
        matrix: ``(classes, classes)`` int64, as :func:`confusion_matrix` gives it, summed over images.
        images: how many.
    """

    matrix: np.ndarray
    images: int = 1

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union, ``(classes,)``; NaN for a class that is neither labelled nor predicted."""
        hits = np.diag(self.matrix)
        return _divided(hits, self.matrix.sum(0) + self.matrix.sum(1) - hits)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of each class's pixels that are found, ``(classes,)``; NaN for a class that is not labelled."""
        return _divided(np.diag(self.matrix), self.matrix.sum(1))

    @property
    def values(self) -> Dict[str, float]:
        """Mean IoU and mean accuracy over the classes that have one, and the accuracy over all pixels."""
        pixels = _divided(np.trace(self.matrix), self.matrix.sum())
        return {"miou": _mean(self.iou), "mean_accuracy": _mean(self.accuracy), "pixel_accuracy": float(pixels)}


def _divided(numerator, denominator):
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")

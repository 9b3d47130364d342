"""Per-class, per-threshold and calibration metrics, computed with scikit-learn.

It is imported where it is used: importing it is a third of what a script takes to start, and only reports need it.
"""

from dataclasses import dataclass
from typing import Any, Dict, List

import numpy as np

from .predict import Predictions
from .ranking import probabilities

__all__ = ["Calibration", "ClassificationReport", "Curve", "calibrate"]

GRID = np.linspace(0, 1, 101)
BINS = 15


@dataclass(frozen=True)
class Curve:
    """A curve ``y``, interpolated at :data:`GRID`, and the area under the exact curve."""

    y: np.ndarray
    area: float


@dataclass(frozen=True)
class Calibration:
    """Number of images, mean confidence and accuracy per bin of confidence, of equal widths; NaN in empty bins.

    Attributes:
        ece: expected calibration error (Guo et al., ICML 2017, equation 3).
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def calibrate(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Compare the probabilities ``(N,)`` of the predicted classes with whether they are ``correct`` ``(N,)``."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins (0, 1/b], (1/b, 2/b], ...
    images = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights, bins) for weights in (confidence, correct)]
    ece = float(np.abs(sums[0] - sums[1]).sum() / len(confidence))
    with np.errstate(invalid="ignore"):
        return Calibration(images, sums[0] / images, sums[1] / images, ece)


class ClassificationReport:
    """The metrics in the report of one checkpoint.

    Curves are one-vs-rest, for the classes that have images. The micro average is over all decisions, the macro average
    over classes.

    Args:
        names: the classes' names, K of them.
    """

    def __init__(self, predictions: Predictions, names: List[str]):
        from sklearn.metrics import confusion_matrix

        self.predictions = predictions
        self.names = names
        self.labels = predictions.labels
        self.predicted = predictions.logits.argmax(1)
        self.probabilities = probabilities(predictions.logits).astype(np.float32)
        self.present = np.unique(self.labels)
        self.confusion = confusion_matrix(self.labels, self.predicted, labels=np.arange(len(names)))
        self.calibration = calibrate(self.probabilities.max(1).astype(np.float64), self.predicted == self.labels)
        one_hot = self.labels[:, None] == self.present  # (N, present classes)
        scores = self.probabilities[:, self.present]
        self.roc = {n: _roc(one_hot[:, i], scores[:, i]) for i, n in enumerate(self.present)}
        self.precision_recall = {n: _precision_recall(one_hot[:, i], scores[:, i]) for i, n in enumerate(self.present)}
        self.roc_averages = {"micro": _roc(one_hot.ravel(), scores.ravel()), "macro": _mean(self.roc)}
        self.precision_recall_averages = {
            "micro": _precision_recall(one_hot.ravel(), scores.ravel()),
            "macro": _mean(self.precision_recall),
        }

    @property
    def per_class(self) -> np.ndarray:
        """Top-1 of each class ``(K,)``, NaN for classes without images."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / self.confusion.sum(1)

    def confusions(self, count: int = 20) -> List[Dict[str, Any]]:
        """The most frequent confusions of one class with another."""
        wrong = self.confusion * ~np.eye(len(self.names), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [np.unravel_index(i, wrong.shape) for i in order]
        return [
            {"class": self.names[i], "taken_for": self.names[j], "images": int(wrong[i, j])}
            for i, j in pairs
            if wrong[i, j]
        ]

    def as_json(self) -> Dict[str, Any]:
        """All metrics, in plain Python types; fractions from 0 to 1, None without images."""
        from sklearn.metrics import classification_report

        metrics = self.predictions.metrics()
        everyone = np.arange(len(self.names))
        return {
            "images": metrics.images,
            "top1": metrics.top1,
            f"top{metrics.k}": metrics.topk,
            "loss": metrics.loss,
            "per_class": [
                {"class": name, "images": int(total), "top1": _plain(top1)}
                for name, total, top1 in zip(self.names, self.confusion.sum(1), self.per_class)
            ],
            "most_frequent_confusions": self.confusions(),
            "classification_report": classification_report(
                self.labels,
                self.predicted,
                labels=everyone,
                target_names=self.names,
                output_dict=True,
                zero_division=0.0,
            ),
            "roc": _curves_json(self.roc_averages, "false_positive_rate", "true_positive_rate"),
            "roc_auc_per_class": {self.names[n]: curve.area for n, curve in self.roc.items()},
            "precision_recall": _curves_json(self.precision_recall_averages, "recall", "precision"),
            "average_precision_per_class": {self.names[n]: curve.area for n, curve in self.precision_recall.items()},
            "calibration": {
                "expected_calibration_error": self.calibration.ece,
                "images": self.calibration.images.tolist(),
                "confidence": [_plain(value) for value in self.calibration.confidence],
                "accuracy": [_plain(value) for value in self.calibration.accuracy],
            },
            "confusion_matrix": self.confusion.tolist(),
        }


def _roc(truth, score) -> Curve:
    from sklearn.metrics import auc, roc_curve

    if truth.all():  # a single class has no ROC curve
        return Curve(np.full_like(GRID, np.nan), float("nan"))
    false, true, _ = roc_curve(truth, score)
    return Curve(np.interp(GRID, false, true), float(auc(false, true)))


def _precision_recall(truth, score) -> Curve:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, score)
    recall, first = np.unique(recall[::-1], return_index=True)  # for equal recalls, the highest threshold
    return Curve(np.interp(GRID, recall, precision[::-1][first]), float(average_precision_score(truth, score)))


def _mean(curves: Dict[int, Curve]) -> Curve:
    return Curve(np.mean([c.y for c in curves.values()], axis=0), float(np.mean([c.area for c in curves.values()])))


def _curves_json(curves, x, y):
    return {name: {"area": _plain(c.area), x: GRID.tolist(), y: [_plain(v) for v in c.y]} for name, c in curves.items()}


def _plain(value):
    return None if np.isnan(value) else float(value)

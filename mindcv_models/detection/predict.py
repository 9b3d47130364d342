"""From a detector's raw outputs to objects: decoding and non-maximum suppression, in NumPy."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from .boxes import decode, nms

__all__ = ["LIMITS", "Detections", "Limits", "detect"]

CHUNK = 1 << 17  # logits that are looked at in one go, so that what is made of them stays in the cache


class Detections(NamedTuple):
    """The objects found in one image, by descending score.

    Attributes:
        boxes: ``(N, 4)`` float32, in pixels of the original image.
        scores: ``(N,)`` float32, 0 to 1.
        labels: ``(N,)`` classes, from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Limits:
    """What becomes a detection.

    Attributes:
        score: only scores above this.
        nms: a box falls if its IoU with a better one of its class is above this.
        per_level: so many anchors of a level at most, those with the best scores.
        per_image: so many detections at most.
    """

    score: float = 0.05
    nms: float = 0.5
    per_level: int = 1000
    per_image: int = 100


LIMITS = Limits()


def detect(logits: np.ndarray, deltas: np.ndarray, anchors: np.ndarray, counts: Sequence[int], size: Tuple[int, int],
           scale: Sequence[float] = (1, 1), limits: Limits = LIMITS) -> Detections:  # fmt: skip
    """The objects that a RetinaNet sees in one image.

    Args:
        logits, deltas: the network's rows for this image, ``(A, C)`` and ``(A, 4)``.
        anchors: ``(A, 4)``.
        counts: how many anchors each level has; their sum is ``A``.
        size: height and width of the resized image, without padding; boxes are clipped to it.
        scale: width and height of the resized image by those of the original.
    """
    rows, labels = candidates(logits, limits.score)
    scores = sigmoid(logits[rows, labels])
    above = scores > np.float32(limits.score)
    rows, labels, scores = rows[above], labels[above], scores[above]
    chosen = best_of_levels(rows, scores, counts, limits.per_level)
    rows, labels, scores = rows[chosen], labels[chosen], scores[chosen]
    boxes = decode(anchors[rows], deltas[rows], size) / np.tile(np.asarray(scale, np.float32), 2)
    kept = nms(boxes, scores, labels, limits.nms, limits.per_image)
    return Detections(boxes[kept], scores[kept], labels[kept])


def candidates(logits: np.ndarray, score: float) -> Tuple[np.ndarray, np.ndarray]:
    """Rows and classes whose score is about ``score`` or more; few of millions, so the exact test comes after."""
    least = -math.inf if score <= 0 else math.log(score / (1 - score)) - 1e-3
    flat, above, places = logits.reshape(-1), np.empty(CHUNK, bool), []
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        places.append(start + np.flatnonzero(np.greater(part, np.float32(least), out=above[: len(part)])))
    return np.divmod(np.concatenate(places), logits.shape[1])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def best_of_levels(rows: np.ndarray, scores: np.ndarray, counts: Sequence[int], most: int) -> np.ndarray:
    """Which candidates belong to the ``most`` anchors of their level that have the best scores.

    Anchors without a candidate are worse than all that have one, so that they need not be looked at.

    Args:
        rows: ``(N,)`` the anchor of each candidate, ascending.
    """
    ends = np.searchsorted(rows, np.cumsum(counts))
    kept = []
    for start, end in zip([0, *ends[:-1]], ends):
        first = np.flatnonzero(np.diff(rows[start:end], prepend=-1))  # where an anchor's candidates begin
        if len(first) > most:
            best = np.maximum.reduceat(scores[start:end], first)
            anchors = np.zeros(len(first), bool)
            anchors[np.argsort(-best, kind="stable")[:most]] = True
            kept.append(start + np.flatnonzero(np.repeat(anchors, np.diff(first, append=end - start))))
        else:
            kept.append(np.arange(start, end))
    return np.concatenate(kept)

"""Which anchor answers for which box: the assignment by the largest overlap (Ren et al., NeurIPS 2015, section 3.1.2).

It is NumPy for the data workers, so that a training step sees arrays of fixed shape.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from .boxes import encode, iou

__all__ = ["BACKGROUND", "IGNORED", "RETINANET", "ROI_HEAD", "RPN", "Thresholds", "assign", "retinanet_targets"]

IGNORED, BACKGROUND = -1, 0


@dataclass(frozen=True)
class Thresholds:
    """Limits of the IoU.

    Attributes:
        positive: from here on an anchor gets its best box.
        negative: below this it is background; between the two it is ignored.
        least: from here on a box's own best anchors get it, however low their IoU is.
    """

    positive: float
    negative: float
    least: float


RETINANET = Thresholds(0.5, 0.4, 0.0)
RPN = Thresholds(0.7, 0.3, 0.3)
ROI_HEAD = Thresholds(0.5, 0.5, 0.5)


def assign(overlaps: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """The box of every anchor, ``(A,)``: IGNORED, BACKGROUND, or ``k`` for box ``k - 1``.

    An anchor gets its best box, the first of equal ones, if that is good enough. Then every box in turn takes the
    anchors that overlap it most, all of equal ones, and a later box takes them from an earlier one.

    Args:
        overlaps: IoU of anchors and boxes, ``(A, G)``; anchors that take no part are not in it.
    """
    anchors, boxes = overlaps.shape
    assigned = np.full(anchors, IGNORED)
    if not boxes or not anchors:
        assigned[:] = BACKGROUND
        return assigned
    best = overlaps.max(1)
    assigned[best < np.float32(thresholds.negative)] = BACKGROUND
    positive = np.flatnonzero(best >= np.float32(thresholds.positive))
    assigned[positive] = overlaps[positive].argmax(1) + 1
    for k, most in enumerate(overlaps.max(0)):
        if most >= np.float32(thresholds.least):
            assigned[overlaps[:, k] == most] = k + 1
    return assigned


def retinanet_targets(anchors: np.ndarray, valid: Optional[np.ndarray], boxes: np.ndarray, classes: np.ndarray,
                      num_classes: int) -> Tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What RetinaNet is to answer for one image.

    Args:
        anchors: ``(A, 4)``.
        valid: which of them take part, ``(A,)``; None for all.
        boxes, classes: ``(G, 4)`` and ``(G,)``: what is in the image.

    Returns:
        Labels ``(A,)`` int32: a class, ``num_classes`` for background, -1 for what is ignored; and deltas ``(A, 4)``,
        0 where there is no box.
    """
    valid = np.ones(len(anchors), bool) if valid is None else valid
    assigned = np.full(len(anchors), IGNORED)
    # Boxes first: a row of all anchors a box is quicker to go through than a row of few boxes an anchor.
    assigned[valid] = assign(iou(boxes, anchors[valid]).T, RETINANET)
    positive = np.flatnonzero(assigned > 0)
    labels = np.where(assigned == IGNORED, -1, num_classes).astype(np.int32)
    labels[positive] = classes[assigned[positive] - 1]
    deltas = np.zeros((len(anchors), 4), np.float32)
    deltas[positive] = encode(anchors[positive], boxes[assigned[positive] - 1])
    return labels, deltas

"""From the second stage's outputs to objects with masks in the original image, in NumPy."""

from typing import Sequence, Tuple

import numpy as np

from .boxes import STD, decode, nms
from .predict import LIMITS, Detections, Limits, sigmoid

__all__ = ["detect_regions", "mask_regions", "paste", "paste_shares"]


def detect_regions(logits: np.ndarray, deltas: np.ndarray, regions: np.ndarray, size: Tuple[int, int],
                   scale: Sequence[float] = (1, 1), limits: Limits = LIMITS) -> Detections:  # fmt: skip
    """The objects that Mask R-CNN sees in one image.

    Args:
        logits, deltas: the second stage's rows for this image, ``(R, C + 1)`` and ``(R, 4 * C)``.
        regions: ``(R, 4)`` in pixels of the resized image. Those that end at its upper edge are rows without a region.
        size: height and width of the resized image, without padding; boxes are clipped to it.
        scale: width and height of the resized image by those of the original.
    """
    classes = logits.shape[1] - 1
    scores = softmax(logits)[:, :classes] * (regions[:, 3:] != 0)
    rows, labels = np.nonzero(scores > np.float32(limits.score))
    scores = scores[rows, labels]
    boxes = decode(regions[rows], deltas.reshape(-1, classes, 4)[rows, labels], size, STD)
    boxes = boxes / np.tile(np.asarray(scale, np.float32), 2)
    kept = nms(boxes, scores, labels, limits.nms, limits.per_image)
    return Detections(boxes[kept], scores[kept], labels[kept])


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def mask_regions(boxes: np.ndarray, scale: Sequence[float]) -> np.ndarray:
    """The regions ``(N, 4)`` of the resized image whose masks belong to boxes of the original."""
    return boxes * np.tile(np.asarray(scale, np.float32), 2)


def paste(logits: np.ndarray, boxes: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Masks ``(N, height, width)`` bool of an image of ``size``.

    A pixel takes the bilinear value of its object's mask at the pixel's centre, 0 outside, and is inside from 0.5 on.

    Args:
        logits: ``(N, side, side)``, those of each object's class.
        boxes: ``(N, 4)``, in pixels of the image.
    """
    return paste_shares(sigmoid(logits), boxes, size)


def paste_shares(shares: np.ndarray, boxes: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """What :func:`paste` does, of masks whose parts go from 0 to 1, as exported files give them."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, probabilities, (x1, y1, x2, y2) in zip(masks, shares, boxes.astype(np.float32)):
        rows, y = interpolation(y1, y2, size[0], probabilities.shape[0])
        columns, x = interpolation(x1, x2, size[1], probabilities.shape[1])
        mask[rows, columns] = y @ probabilities @ x.T >= 0.5
    return masks


def interpolation(start: np.float32, end: np.float32, pixels: int, side: int) -> Tuple[slice, np.ndarray]:
    """The pixels of an axis that meet a mask from ``start`` to ``end``, and the weights of its cells, ``(n, side)``."""
    if end <= start:
        return slice(0, 0), np.zeros((0, side), np.float32)
    cell = (end - start) / side
    first = max(int(np.floor(start - cell)), 0)
    last = min(int(np.ceil(end + cell)), pixels)
    places = (np.arange(first, max(last, first), dtype=np.float32) + np.float32(0.5) - start) / (end - start)
    places = places * np.float32(side) - np.float32(0.5)
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(side, dtype=np.float32)), 0)
    return slice(first, max(last, first)), weights

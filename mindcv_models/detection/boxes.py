"""Boxes ``(N, 4)``: x1, y1, x2, y2 in pixels, float32; a box's width is x2 - x1. Everything here is NumPy."""

import math
from typing import Optional, Sequence, Tuple

import numpy as np

__all__ = ["areas", "clip", "decode", "encode", "iou", "nms"]

LIMIT = abs(math.log(16 / 1000))  # of the deltas of sides, when they are decoded
ONES = (1.0, 1.0, 1.0, 1.0)
STD = (0.1, 0.1, 0.2, 0.2)  # deviations of the deltas of a second stage


def areas(boxes: np.ndarray) -> np.ndarray:
    """``(N,)``."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every two boxes, ``(N, 4)`` and ``(M, 4)`` to ``(N, M)``; 0 for two without area."""
    x1, y1, x2, y2 = (np.ascontiguousarray(column) for column in first.T[:, :, None])  # (N, 1) each
    u1, v1, u2, v2 = (np.ascontiguousarray(column) for column in second.T[:, None, :])  # (1, M) each
    width = np.minimum(x2, u2) - np.maximum(x1, u1)
    height = np.minimum(y2, v2) - np.maximum(y1, v1)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = areas(first)[:, None] + areas(second)[None, :] - shared
    return shared / np.maximum(union, np.float32(1e-6))


def encode(anchors: np.ndarray, boxes: np.ndarray, std: Sequence[float] = ONES) -> np.ndarray:
    """Deltas ``(N, 4)`` that lead from each anchor to its box (Girshick et al., CVPR 2014, appendix C).

    They are dx and dy in sides of the anchor, and the logarithms of the sides' ratios, each divided by ``std``.
    """
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) * np.float32(0.5)
    box_sides = boxes[:, 2:] - boxes[:, :2]
    box_centres = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    deltas = np.concatenate([(box_centres - centres) / sides, np.log(box_sides / sides)], 1)
    return deltas / np.asarray(std, np.float32)


def decode(anchors: np.ndarray, deltas: np.ndarray, size: Optional[Tuple[float, float]] = None,
           std: Sequence[float] = ONES) -> np.ndarray:  # fmt: skip
    """The boxes ``(N, 4)`` to which deltas lead from anchors, clipped to an image of ``size``: height, width.

    The sides' deltas are limited to 4.135 either way, a ratio of 62.5.
    """
    deltas = deltas * np.asarray(std, np.float32)
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) * np.float32(0.5) + deltas[:, :2] * sides
    half = sides * np.exp(np.clip(deltas[:, 2:], -LIMIT, LIMIT)) * np.float32(0.5)
    boxes = np.concatenate([centres - half, centres + half], 1)
    return boxes if size is None else clip(boxes, size)


def clip(boxes: np.ndarray, size: Tuple[float, float]) -> np.ndarray:
    """The parts of boxes within an image of ``size``: height, width."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def nms(boxes: np.ndarray, scores: np.ndarray, groups: Optional[np.ndarray] = None, threshold: float = 0.5,
        limit: Optional[int] = None) -> np.ndarray:  # fmt: skip
    """Greedy non-maximum suppression: indices of the boxes that stay, by descending score.

    A box falls if its IoU with a better one of its group that stays is above ``threshold``. Of equal scores the first
    is the better one.

    Args:
        groups: ``(N,)`` integers, such as classes or levels; None for one group.
        limit: so many boxes at most.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = (np.ascontiguousarray(column) for column in boxes[order].T)
    size = (x2 - x1) * (y2 - y1)
    groups = np.zeros(len(order), np.int64) if groups is None else groups[order]
    stays = np.ones(len(order), bool)
    kept = []
    for k in range(len(order)):
        if not stays[k]:
            continue
        kept.append(k)
        if len(kept) == limit:
            break
        rest = slice(k + 1, None)
        width = np.minimum(x2[rest], x2[k]) - np.maximum(x1[rest], x1[k])
        height = np.minimum(y2[rest], y2[k]) - np.maximum(y1[rest], y1[k])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = size[rest] + size[k] - shared
        stays[rest] &= (shared <= np.float32(threshold) * union) | (groups[rest] != groups[k])
    return order[kept]

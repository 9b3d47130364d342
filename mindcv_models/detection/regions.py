"""Within the graph of a two-stage detector: from the first stage's outputs to regions, and what is in them.

All has a fixed number of rows, of which some do not count, so that a step compiles once for a shape of batch. Nothing
here has a gradient. The same on arrays of any length, in NumPy: `boxes` and `assign`.
"""

from dataclasses import replace
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..layers import NMS
from .anchors import RPN
from .assign import ROI_HEAD
from .boxes import LIMIT, ONES

__all__ = ["Proposals", "Samples", "decode", "encode", "iou", "sample_regions"]


def decode(anchors, deltas, sizes, std=ONES):
    """The boxes to which deltas ``(B, R, 4)`` lead from ``anchors``, clipped to images of ``sizes`` (height, width)."""
    sides = anchors[..., 2:] - anchors[..., :2]
    moves = deltas * Tensor(std, ms.float32)
    centres = (anchors[..., :2] + anchors[..., 2:]) * 0.5 + moves[..., :2] * sides
    half = sides * ops.exp(ops.minimum(ops.maximum(moves[..., 2:], -LIMIT), LIMIT)) * 0.5
    limits = ops.concat((sizes[:, 1:], sizes[:, :1]), 1).expand_dims(1)  # (B, 1, 2): width, height
    first = ops.minimum(ops.maximum(centres - half, 0.0), limits)
    last = ops.minimum(ops.maximum(centres + half, 0.0), limits)
    return ops.concat((first, last), -1)


def encode(regions, boxes, counts, std=ONES):
    """Deltas ``(B, R, 4)`` from regions to boxes, where ``counts`` (B, R) is not 0; zeros elsewhere."""
    counts = counts.expand_dims(-1) > 0
    sides = regions[..., 2:] - regions[..., :2]
    box_sides = boxes[..., 2:] - boxes[..., :2]
    sides = ops.select(counts.broadcast_to(sides.shape), sides, ops.ones_like(sides))
    box_sides = ops.select(counts.broadcast_to(sides.shape), box_sides, ops.ones_like(sides))
    moves = ((boxes[..., :2] + boxes[..., 2:]) * 0.5 - (regions[..., :2] + regions[..., 2:]) * 0.5) / sides
    deltas = ops.concat((moves, ops.log(box_sides / sides)), -1) / Tensor(std, ms.float32)
    return deltas * counts.astype(ms.float32)


def iou(first, second):
    """Intersection over union of every two boxes of an image, ``(B, N, 4)`` and ``(B, M, 4)`` to ``(B, N, M)``."""
    a, b = first.expand_dims(2), second.expand_dims(1)
    sides = ops.minimum(a[..., 2:], b[..., 2:]) - ops.maximum(a[..., :2], b[..., :2])
    sides = ops.maximum(sides, 0.0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / ops.maximum(areas(a) + areas(b) - shared, 1e-6)


def areas(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def rows_of(table, index):
    """Rows of each image: ``(B, N, C)`` or ``(B, N)``, and ``(B, R)`` of int32, to ``(B, R, C)`` or ``(B, R)``."""
    b, n = table.shape[:2]
    index = index + first_rows(b, n)
    return ops.gather(table.reshape(b * n, *table.shape[2:]), index, 0)


@ops.constexpr
def first_rows(images, rows):
    return Tensor(np.arange(images, dtype=np.int32)[:, None] * rows)


@ops.constexpr
def level_anchors(scale, shapes, level):
    """The anchors ``(A_k, 4)`` of one of the levels whose maps have these rows and columns."""
    anchors = replace(RPN, scales=(scale,))
    ends = np.cumsum(anchors.counts(shapes))
    return Tensor(np.split(anchors.all(shapes), ends[:-1])[level])


class Proposals(nn.Cell):
    """The regions that the second stage looks at, by descending score of the first stage (Ren et al., section 3).

    Args:
        per_level: so many anchors of a level at most, those with the best scores.
        most: so many regions of an image at most.
        threshold: a region falls if its IoU with a better one of its level is above this.
        anchor_scale: side of the smallest anchors, in strides.
    """

    def __init__(self, per_level: int = 1000, most: int = 1000, threshold: float = 0.7, anchor_scale: float = 8.0):
        super().__init__()
        self.anchor_scale = anchor_scale
        self.per_level, self.most = per_level, most
        self.nms = NMS(threshold)

    def construct(self, logits, deltas, sizes, shapes):
        """Choose the regions of each image.

        Args:
            logits, deltas: of each level, ``(B, A_k)`` and ``(B, A_k, 4)``.
            sizes: height and width of each image without padding, ``(B, 2)`` float32; regions are clipped to it.
            shapes: rows and columns of each level's map.

        Returns:
            Regions ``(B, R, 4)``, their scores ``(B, R)`` and which count, ``(B, R)`` of 1 and 0, in descending order
            of score; those that do not count come last.
        """
        regions, scores = (), ()
        for k in range(len(shapes)):
            score, index = ops.topk(
                ops.sigmoid(ops.stop_gradient(logits[k]).astype(ms.float32)), min(self.per_level, logits[k].shape[1])
            )
            moves = rows_of(ops.stop_gradient(deltas[k]).astype(ms.float32), index)
            boxes = decode(ops.gather(level_anchors(self.anchor_scale, shapes, k), index, 0), moves, sizes)
            kept = self.nms(boxes)
            regions += (boxes,)
            scores += (score * kept + kept - 1,)  # -1 for what fell
        regions, scores = ops.concat(regions, 1), ops.concat(scores, 1)
        scores, index = ops.topk(scores, min(self.most, scores.shape[1]))
        counts = (scores >= 0).astype(ms.float32)
        return rows_of(regions, index) * counts.expand_dims(-1), scores * counts, counts


class Samples(NamedTuple):
    """The regions that the second stage learns from, those with an object first.

    Attributes:
        regions: ``(B, S, 4)``.
        labels: ``(B, S)`` int32: a class, the number of classes for background, -1 for rows that do not count.
        owners: ``(B, S)`` int32: which object of the image, 0 where there is none.
        objects: ``(B, S)`` float32, 1 for regions with an object; they are among the first quarter of the rows.
    """

    regions: Tensor
    labels: Tensor
    owners: Tensor
    objects: Tensor


def assign(overlaps, counts, exists, thresholds=ROI_HEAD):
    """The object of every region, ``(B, N)`` float32: 0 for none, ``k`` for object ``k - 1``, -1 where nothing counts.

    A region gets the object that it overlaps most, the first of equal ones, if they overlap enough. Then every object
    in turn takes the regions that overlap it most, all of equal ones, and a later object takes from an earlier one.

    Args:
        overlaps: IoU, ``(B, N, G)``.
        counts, exists: which regions and objects there are, ``(B, N)`` and ``(B, G)`` of 1 and 0.
    """
    valid = counts.expand_dims(2) * exists.expand_dims(1)
    overlaps = overlaps * valid + valid - 1  # -1 where there is nothing
    numbers = ops.arange(1, overlaps.shape[2] + 1).astype(ms.float32)
    best = ops.amax(overlaps, 2, True)
    many = float(overlaps.shape[2] + 1)
    first = ops.amin(many - (overlaps == best).astype(ms.float32) * (many - numbers), 2)
    assigned = first * (best[..., 0] >= thresholds.positive).astype(ms.float32)
    most = ops.amax(overlaps, 1, True)
    taken = ops.logical_and(overlaps == most, most >= thresholds.least)
    last = ops.amax(taken.astype(ms.float32) * numbers, 2)
    assigned = ops.select(last > 0, last, assigned)
    return assigned * counts + counts - 1


def sample_regions(regions, counts, boxes, labels, draws, num_classes, samples=512, share=0.25):
    """Choose the regions that the second stage learns from, as the random numbers ``draws`` say.

    The image's own boxes are regions too, in front of the others. Of regions with an object those with the largest
    numbers are taken, ``share`` of ``samples`` at most; then the rest is filled with background in the same way.

    Args:
        regions, counts: ``(B, N, 4)`` and ``(B, N)``, as :class:`Proposals` gives them.
        boxes: ``(B, G, 4)``, the objects.
        labels: ``(B, G)`` int32, -1 for rows without an object.
        draws: ``(B, G + N)``, at least 0 and below 1.

    Returns:
        :class:`Samples`, as a tuple.
    """
    exists = (labels >= 0).astype(ms.float32)
    assigned = assign(iou(regions, boxes), counts, exists)
    own = ops.arange(1, boxes.shape[1] + 1).astype(ms.float32) * exists + exists - 1
    assigned = ops.concat((own, assigned), 1)  # (B, G + N)
    regions = ops.concat((boxes, regions), 1)
    draws = draws + 1
    most = min(int(samples * share), draws.shape[1])
    rank, objects = ops.topk(draws * (assigned > 0).astype(ms.float32), most)
    object_count = (rank > 0).astype(ms.float32).sum(1, keepdims=True)  # (B, 1)
    rows = min(samples, draws.shape[1])
    rank, others = ops.topk(draws * (assigned == 0).astype(ms.float32), rows)
    other_count = ops.minimum((rank > 0).astype(ms.float32).sum(1, keepdims=True), samples - object_count)
    place = ops.arange(rows).astype(ms.float32).expand_dims(0)  # (1, S)
    is_object = place < object_count
    place = ops.select(is_object, place + ops.zeros_like(object_count), place - object_count + most)
    chosen = rows_of(ops.concat((objects, others), 1), place.astype(ms.int32))
    is_other = ops.logical_and(ops.logical_not(is_object), ops.arange(rows) < object_count + other_count)
    return gathered(chosen, regions, assigned, labels, is_object, is_other, num_classes)


def gathered(chosen, regions, assigned, labels, is_object, is_other, num_classes):
    """The chosen rows ``(B, S)`` of regions, labels and objects, as :class:`Samples` has them."""
    owners = ops.maximum(rows_of(assigned, chosen) - 1, 0.0).astype(ms.int32)
    own_labels = rows_of(labels, owners)
    background = ops.zeros_like(own_labels) + num_classes
    nothing = ops.zeros_like(own_labels) - 1
    own_labels = ops.select(is_object, own_labels, ops.select(is_other, background, nothing))
    counts = ops.logical_or(is_object, is_other).astype(ms.float32)
    objects = is_object.astype(ms.float32)
    return rows_of(regions, chosen) * counts.expand_dims(-1), own_labels, owners, objects

"""Training Mask R-CNN: the five losses, in one graph (Ren et al., NeurIPS 2015; He et al., ICCV 2017)."""

from typing import Tuple

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from .. import backend
from ..training import Objective
from .assign import IGNORED, RPN, assign
from .boxes import STD, iou
from .boxes import encode as encode_boxes
from .losses import softplus
from .mask_targets import MaskTargets
from .regions import Proposals, encode, rows_of, sample_regions

__all__ = ["MaskRCNNObjective", "rpn_targets"]

RPN_SAMPLES = 256  # anchors of an image that the first stage learns from, half of them with an object at most
CHUNK = 32  # rows of the mask head that are left out together


def rpn_targets(anchors: np.ndarray, valid: np.ndarray, boxes: np.ndarray, rng: np.random.Generator,
                samples: int = RPN_SAMPLES) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Anchors that the first stage learns from, drawn at random, and what it is to answer for one image.

    Args:
        anchors: ``(A, 4)``.
        valid: which of them take part, ``(A,)``.
        boxes: ``(G, 4)``: where there are objects.

    Returns:
        Indices of anchors ``(samples,)`` int32; labels, 1 for an object, 0 for background, -1 for rows that do not
        count, int32; deltas ``(samples, 4)`` float32.
    """
    assigned = np.full(len(anchors), IGNORED)
    assigned[valid] = assign(iou(anchors[valid], boxes), RPN)
    objects = some(np.flatnonzero(assigned > 0), samples // 2, rng)
    others = some(np.flatnonzero(assigned == 0), samples - len(objects), rng)
    return sampled_targets(anchors, boxes, assigned, objects, others, samples)


def some(index: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``count`` of the numbers, drawn without replacement, in their order."""
    return index if len(index) <= count else np.sort(rng.permutation(index)[:count])


def sampled_targets(anchors, boxes, assigned, objects, others, samples):
    """What :func:`rpn_targets` returns, for a given choice of anchors with an object and of others."""
    index = np.zeros(samples, np.int32)
    labels = np.full(samples, -1, np.int32)
    deltas = np.zeros((samples, 4), np.float32)
    count, end = len(objects), len(objects) + len(others)
    index[:count], index[count:end] = objects, others
    labels[:count], labels[count:end] = 1, 0
    if count:
        deltas[:count] = encode_boxes(anchors[objects], boxes[assigned[objects] - 1])
    return index, labels, deltas


class MaskRCNNObjective(Objective):
    """A batch to the sum of five losses, with the parts.

    Args:
        network: a :class:`mindcv_models.models.mask_rcnn.MaskRCNN`.
        per_level: anchors of a level that become regions, before suppression.
        regions: of an image that the second stage may learn from.
        samples: regions of an image that it learns from.
        share: of those, regions with an object at most.
    """

    parts = ("rpn_cls", "rpn_box", "cls", "box", "mask")

    def __init__(self, network: nn.Cell, average=None, per_level: int = 2000, regions: int = 1000, samples: int = 512,
                 share: float = 0.25):  # fmt: skip
        super().__init__(network, average)
        self.proposals = Proposals(per_level, regions, anchor_scale=network.anchor_scale)
        self.targets = MaskTargets()
        self.samples, self.share = samples, share
        self.skips = backend.skip_empty_rows()
        self.num_classes = network.num_classes

    def construct(self, images, sizes, anchors, anchor_labels, anchor_deltas, boxes, labels, crops, places, draws):
        """The losses of a batch.

        Args:
            images: ``(B, 3, H, W)``.
            sizes: height and width of each image without padding, ``(B, 2)`` float32.
            anchors, anchor_labels, anchor_deltas: as :func:`rpn_targets` gives them, ``(B, 256)`` and ``(B, 256, 4)``.
            boxes, labels: the objects, ``(B, G, 4)`` and ``(B, G)`` int32, -1 for rows without one.
            crops, places: their masks, as in :class:`masks.PackedMasks`.
            draws: random numbers, ``(B, G + regions)``, at least 0 and below 1.
        """
        logits, deltas, maps = self.network(images)
        shapes = tuple([x.shape[2:] for x in maps])
        regions, _, counts = self.proposals(logits, deltas, sizes, shapes)
        first = rpn_losses(ops.concat(logits, 1), ops.concat(deltas, 1), anchors, anchor_labels, anchor_deltas)
        second = self.second_stage(
            maps, regions, counts, sizes, boxes, labels, crops, places, draws, images.shape[2:]
        )  # fmt: skip
        parts = first + second
        return parts[0] + parts[1] + parts[2] + parts[3] + parts[4], parts

    def second_stage(self, maps, regions, counts, sizes, boxes, labels, crops, places, draws, shape):
        """The losses of classes, boxes and masks for given regions; the arguments as in :meth:`construct`."""
        regions, region_labels, owners, objects = sample_regions(
            regions, counts, boxes, labels, draws, self.num_classes, self.samples, self.share
        )
        regions, boxes = ops.stop_gradient(regions), rows_of(boxes, owners)
        targets = ops.stop_gradient(encode(regions, boxes, objects, STD))
        logits, deltas = self.network.roi_head.boxes(maps, regions)
        cls, box = region_losses(logits, deltas, region_labels.reshape(-1), targets.reshape(-1, 4), objects)
        most = min(int(self.samples * self.share), regions.shape[1])
        regions, owners, objects = regions[:, :most], owners[:, :most], objects[:, :most]
        padded = ops.ceil(sizes / 32) * 32
        targets = ops.stop_gradient(self.targets(regions, owners, crops, places, padded, shape))
        return cls, box, self.loss_of_masks(maps, regions, region_labels[:, :most], targets, objects)

    def loss_of_masks(self, maps, regions, labels, targets, objects):
        """The loss of masks; on the CPU without work on most of the rows that have no object."""
        features = self.network.roi_head.mask_features(maps, regions)
        features, labels = features.reshape(-1, *features.shape[2:]), labels.reshape(-1)
        n, objects = labels.shape[0], objects.reshape(-1)
        targets = targets.reshape(n, -1)
        if not self.skips or n <= CHUNK:
            return mask_loss(self.own_masks(features, labels), targets, objects)
        objects, order = ops.topk(objects, n)  # rows with an object first
        features, labels, targets = [ops.gather(each, order, 0) for each in (features, labels, targets)]
        # The first rows always run: parameters that a graph uses within branches alone are not updated from outside.
        logits = (self.own_masks(features[:CHUNK], labels[:CHUNK]),)
        for k in range(CHUNK, n, CHUNK):
            end = min(k + CHUNK, n)
            logits += (self.own_masks_if_any(features[k:end], labels[k:end], objects[k:end]),)
        return mask_loss(ops.concat(logits, 0), targets, objects)

    def own_masks(self, features, labels):
        """Logits ``(N, side * side)`` of each region's class."""
        labels = ops.minimum(ops.maximum(labels, 0), self.num_classes - 1)
        logits = self.network.roi_head.mask_head.own(features, labels)
        return logits.astype(ms.float32).reshape(labels.shape[0], -1)

    def own_masks_if_any(self, features, labels, objects):
        if objects.sum() > 0:
            logits = self.own_masks(features, labels)
        else:
            logits = ops.zeros((features.shape[0], self.targets.side**2), ms.float32)
        return logits


def rpn_losses(logits, deltas, anchors, labels, targets):
    """Losses of the first stage for the sampled anchors: are there objects, and where.

    Both are summed, and divided by how many anchors of each image count, at least one of either kind.
    """
    logits, deltas = rows_of(logits, anchors).astype(ms.float32), rows_of(deltas, anchors).astype(ms.float32)
    objects, others = (labels == 1).astype(ms.float32), (labels == 0).astype(ms.float32)
    divisor = (ops.maximum(objects.sum(1), 1.0) + ops.maximum(others.sum(1), 1.0)).sum()
    cls = ((objects + others) * (softplus(logits) - logits * objects)).sum() / divisor
    box = (ops.abs(deltas - targets) * objects.expand_dims(-1)).sum() / divisor
    return cls, box


def region_losses(logits, deltas, labels, targets, objects):
    """Losses of the second stage's classes and boxes, both divided by the number of regions that count.

    Args:
        logits, deltas: ``(N, C + 1)`` and ``(N, 4 * C)``.
        labels: ``(N,)``: a class, ``C`` for background, -1 for rows that do not count.
        targets: ``(N, 4)``, of regions with an object.
        objects: ``(B, S)``, ``N`` in all.
    """
    n, classes = logits.shape[0], logits.shape[1] - 1
    counts = (labels >= 0).astype(ms.float32)
    divisor = ops.maximum(counts.sum(), 1.0)
    logits = ops.log_softmax(logits.astype(ms.float32), 1)
    own = ops.gather(logits.reshape(-1), numbers(n) * (classes + 1) + ops.maximum(labels, 0), 0)
    cls = -(own * counts).sum() / divisor
    row = numbers(n) * classes + ops.minimum(ops.maximum(labels, 0), classes - 1)
    own = ops.gather(deltas.astype(ms.float32).reshape(n * classes, 4), row, 0)
    box = (ops.abs(own - targets) * objects.reshape(-1, 1)).sum() / divisor
    return cls, box


def mask_loss(logits, targets, objects):
    """The mean binary cross entropy of masks ``(N, pixels)``, over those of the ``objects`` (N); 0 without one."""
    cost = (softplus(logits) - logits * targets).sum(1) * objects
    return cost.sum() / (ops.maximum(objects.sum(), 1.0) * logits.shape[1])


@ops.constexpr
def numbers(count):
    return ms.Tensor(np.arange(count, dtype=np.int32))

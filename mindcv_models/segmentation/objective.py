"""The loss of a segmenter: cross entropy of every pixel, and Dice loss of every class."""

from typing import Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..layers import GlobalAvgPool, ResizeLike
from ..training import Objective

__all__ = ["SegmentationObjective"]


class SegmentationObjective(Objective):
    """Images ``(B, C, H, W)`` and label maps ``(B, H, W)`` int32 to the mean cross entropy of their pixels.

    The logits are enlarged to the labels' size first. A pixel with a negative label adds nothing to the loss, but
    counts in the mean, as in the official code; the part ``pixel_accuracy``, 0 to 1, counts it as wrong.

    With a ``dice_weight`` the loss has the Dice loss too (Milletari et al., 3DV 2016, arXiv:1606.04797), and so has
    ``parts``: ``1 - (2 * p * t + 1) / (p + t + 1)`` for each class that is labelled in the batch, and the mean over
    these. ``p`` are probabilities and ``t`` is 1 at the class's pixels and 0 elsewhere; products and terms are summed
    over the batch's pixels, but for those with a negative label.

    Args:
        class_weights: factor on the cross entropy of each class's pixels; None for 1.
        dice_weight: factor on the Dice loss.
    """

    def __init__(self, network: nn.Cell, class_weights: Optional[Sequence[float]] = None, dice_weight: float = 0.0):
        super().__init__(network)
        self.class_weights = None if class_weights is None else Tensor(class_weights, ms.float32)
        self.dice_weight = dice_weight
        self.resize = ResizeLike()
        self.dice = DiceLoss()
        self.parts = ("pixel_accuracy", "dice") if dice_weight else ("pixel_accuracy",)

    def construct(self, images, labels):
        logits = self.network(images).astype(ms.float32)
        logits = self.resize(logits, labels)  # (B, classes, H, W)
        predictions = ops.argmax(logits, 1).astype(ms.int32)  # (B, H, W)
        largest = ops.stop_gradient(ops.gather_elements(logits, 1, predictions.expand_dims(1)))
        logits = logits - largest
        known = ops.maximum(labels, 0)
        own = ops.gather_elements(logits, 1, known.expand_dims(1)).squeeze(1)
        shares = ops.exp(logits)
        total = shares.sum(1)
        loss = ops.log(total) - own
        counts = (labels >= 0).astype(ms.float32)
        if self.class_weights is not None:
            loss = loss * ops.gather(self.class_weights, known, 0)
        hits = ops.equal(predictions, labels).astype(ms.float32)
        loss, accuracy = (loss * counts).mean(), hits.mean()
        if not self.dice_weight:
            return loss, (accuracy,)
        dice = self.dice(shares * (counts / total).expand_dims(1), labels)
        return loss + self.dice_weight * dice, (accuracy, dice)


class DiceLoss(nn.Cell):
    """Probabilities ``(B, classes, H, W)``, 0 where no class counts, and label maps ``(B, H, W)`` to a scalar."""

    def __init__(self):
        super().__init__()
        self.average = GlobalAvgPool()

    def construct(self, probabilities, labels):
        classes = Tensor(np.arange(probabilities.shape[1], dtype=np.int32).reshape(1, -1, 1, 1))
        targets = ops.equal(labels.expand_dims(1), classes).astype(ms.float32)  # (B, classes, H, W)
        pixels = self.total(targets)
        common = self.total(probabilities * targets)
        losses = 1 - (2 * common + 1) / (self.total(probabilities) + pixels + 1)
        labelled = (pixels > 0).astype(ms.float32)
        return (losses * labelled).sum() / ops.maximum(labelled.sum(), 1)

    def total(self, maps):
        """``(B, classes, H, W)`` to ``(classes,)``."""
        return self.average(maps).sum(0) * (maps.shape[2] * maps.shape[3])

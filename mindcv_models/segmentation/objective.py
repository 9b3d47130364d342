"""The loss of a segmenter: cross entropy of every pixel, and Dice loss of every class."""

from typing import Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from ..layers import PixelSums
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
        self.sums = PixelSums()
        self.parts = ("pixel_accuracy", "dice") if dice_weight else ("pixel_accuracy",)

    def construct(self, images, labels):
        logits = self.network(images)
        weights = ops.ones(logits.shape[1], ms.float32) if self.class_weights is None else self.class_weights
        entropy, hits, common, probabilities, pixels = self.sums(logits, labels, weights)
        loss, accuracy = entropy / labels.size, hits / labels.size
        if not self.dice_weight:
            return loss, (accuracy,)
        dice = dice_loss(common, probabilities, pixels)
        return loss + self.dice_weight * dice, (accuracy, dice)


def dice_loss(common, probabilities, pixels):
    """The sums ``p * t``, ``p`` and ``t`` of each class, ``(K,)``, to a scalar."""
    losses = 1 - (2 * common + 1) / (probabilities + pixels + 1)
    labelled = (pixels > 0).astype(ms.float32)
    return (losses * labelled).sum() / ops.maximum(labelled.sum(), 1)

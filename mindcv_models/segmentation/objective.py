"""The loss of a segmenter: cross entropy of every pixel."""

from typing import Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from ..layers import resize
from ..training import Objective

__all__ = ["SegmentationObjective"]


class SegmentationObjective(Objective):
    """Images ``(B, C, H, W)`` and label maps ``(B, H, W)`` int32 to the mean cross entropy of their pixels.

    The logits are enlarged to the labels' size first. A pixel with a negative label adds nothing to the loss, but
    counts in the mean, as in the official code; the part ``pixel_accuracy``, 0 to 1, counts it as wrong.

    Args:
        class_weights: factor on the cross entropy of each class's pixels; None for 1.
    """

    parts = ("pixel_accuracy",)

    def __init__(self, network: nn.Cell, class_weights: Optional[Sequence[float]] = None):
        super().__init__(network)
        self.class_weights = None if class_weights is None else Tensor(class_weights, ms.float32)

    def construct(self, images, labels):
        logits = self.network(images).astype(ms.float32)
        logits = resize(logits, labels.shape[1], labels.shape[2])  # (B, classes, H, W)
        predictions = ops.argmax(logits, 1).astype(ms.int32)  # (B, H, W)
        largest = ops.stop_gradient(ops.gather_elements(logits, 1, predictions.expand_dims(1)))
        logits = logits - largest
        known = ops.maximum(labels, 0)
        own = ops.gather_elements(logits, 1, known.expand_dims(1)).squeeze(1)
        loss = ops.log(ops.exp(logits).sum(1)) - own
        counts = (labels >= 0).astype(ms.float32)
        if self.class_weights is not None:
            loss = loss * ops.gather(self.class_weights, known, 0)
        hits = ops.equal(predictions, labels).astype(ms.float32)
        return (loss * counts).mean(), (hits.mean(),)

"""The loss of a segmenter: cross entropy of every pixel."""

import mindspore as ms
from mindspore import ops

from ..layers import resize
from ..training import Objective

__all__ = ["SegmentationObjective"]


class SegmentationObjective(Objective):
    """Images ``(B, C, H, W)`` and label maps ``(B, H, W)`` int32 to the mean cross entropy of their pixels.

    The logits are enlarged to the labels' size first. A pixel with a negative label adds nothing to the loss, but
    counts in the mean, as in the official code; the part ``pixel_accuracy``, 0 to 1, counts it as wrong.
    """

    parts = ("pixel_accuracy",)

    def construct(self, images, labels):
        logits = self.network(images).astype(ms.float32)
        logits = resize(logits, labels.shape[1], labels.shape[2])  # (B, classes, H, W)
        predictions = ops.argmax(logits, 1).astype(ms.int32)  # (B, H, W)
        largest = ops.stop_gradient(ops.gather_elements(logits, 1, predictions.expand_dims(1)))
        logits = logits - largest
        own = ops.gather_elements(logits, 1, ops.maximum(labels, 0).expand_dims(1)).squeeze(1)
        loss = ops.log(ops.exp(logits).sum(1)) - own
        counts = (labels >= 0).astype(ms.float32)
        hits = ops.equal(predictions, labels).astype(ms.float32)
        return (loss * counts).mean(), (hits.mean(),)

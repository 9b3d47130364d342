"""What a detector is trained with."""

from mindspore import nn

from ..training import Objective
from .losses import retinanet_losses

__all__ = ["RetinaNetObjective"]


class RetinaNetObjective(Objective):
    """Images ``(B, C, H, W)``, labels ``(B, A)`` and deltas ``(B, A, 4)`` to the loss and its parts.

    Labels and deltas are those of :func:`mindcv_models.detection.assign.retinanet_targets`.

    Args:
        cls_weight: factor on the loss of classes in the sum; the part itself is without it.
    """

    parts = ("cls", "box")

    def __init__(self, network: nn.Cell, average=None, cls_weight: float = 1.0):
        super().__init__(network, average)
        self.cls_weight = cls_weight

    def construct(self, images, labels, targets):
        logits, deltas = self.network(images)
        cls, box = retinanet_losses(logits, deltas, labels, targets)
        weighted = cls if self.cls_weight == 1 else self.cls_weight * cls
        return weighted + box, (cls, box)

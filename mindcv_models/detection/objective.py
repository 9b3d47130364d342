"""What a detector is trained with."""

from ..training import Objective
from .losses import retinanet_losses

__all__ = ["RetinaNetObjective"]


class RetinaNetObjective(Objective):
    """Images ``(B, C, H, W)``, labels ``(B, A)`` and deltas ``(B, A, 4)`` to the loss and its parts.

    Labels and deltas are those of :func:`mindcv_models.detection.assign.retinanet_targets`.
    """

    parts = ("cls", "box")

    def construct(self, images, labels, targets):
        logits, deltas = self.network(images)
        cls, box = retinanet_losses(logits, deltas, labels, targets)
        return cls + box, (cls, box)

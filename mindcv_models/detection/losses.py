"""Losses of detectors."""

import functools

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

__all__ = ["focal_loss", "l1_loss", "positives", "retinanet_losses", "softplus"]

ALPHA = 0.25  # weight of an anchor's own class; 1 - ALPHA of all others


@ops.constexpr
@functools.lru_cache(maxsize=8)
def numbers(count):
    """0 to ``count - 1``, int32, a constant of the graph."""
    return Tensor(np.arange(count, dtype=np.int32))


def softplus(x):
    """``log(1 + exp(x))``, for any ``x``."""
    return ops.maximum(x, 0.0) + ops.log1p(ops.exp(-ops.abs(x)))


def focal_loss(logits, labels):
    """The focal loss (Lin et al., ICCV 2017, equation 5) with ``gamma`` 2, summed over anchors and classes.

    With ``z`` the logit of a wrong class, or minus that of the right one, an entry is
    ``alpha * sigmoid(z)**2 * log(1 + exp(z))``.

    Args:
        logits: ``(B, A, C)``.
        labels: ``(B, A)``: a class, ``C`` for background, -1 for anchors that do not count.
    """
    is_class = (labels.expand_dims(-1) == numbers(logits.shape[-1])).astype(ms.float32)
    counts = (labels >= 0).astype(ms.float32).expand_dims(-1)
    z = logits.astype(ms.float32) * (1 - 2 * is_class)
    cost = softplus(z)
    weight = counts * ((1 - ALPHA) + (2 * ALPHA - 1) * is_class)
    return (weight * ops.exp(2 * (z - cost)) * cost).sum()


def positives(labels, num_classes: int):
    """Which anchors have a box: ``(B, A)`` of ones and zeros, float32."""
    return ops.logical_and(labels >= 0, labels < num_classes).astype(ms.float32)


def l1_loss(deltas, targets, weights):
    """The sum of ``weights * |deltas - targets|``: ``(B, A, 4)`` both, and ``(B, A)``."""
    return (ops.abs(deltas.astype(ms.float32) - targets) * weights.expand_dims(-1)).sum()


def retinanet_losses(logits, deltas, labels, targets):
    """The focal loss and the L1 loss of RetinaNet, float32 scalars.

    Both are sums over anchors, divided by how many anchors have a box, of an image without any 1; over the images of
    this device alone.

    Args:
        logits, deltas: the network's outputs, ``(B, A, C)`` and ``(B, A, 4)``.
        labels, targets: ``(B, A)`` and ``(B, A, 4)``, from :func:`mindcv_models.detection.assign.retinanet_targets`.
    """
    has_box = positives(labels, logits.shape[-1])
    divisor = ops.maximum(has_box.sum(1), 1.0).sum()
    return focal_loss(logits, labels) / divisor, l1_loss(deltas, targets, has_box) / divisor

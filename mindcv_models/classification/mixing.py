"""Mixup and CutMix of a batch, with soft labels.

Sources: Zhang et al., arXiv:1710.09412; Yun et al., arXiv:1905.04899. MindCV's are not used: their random generator is
shared by all threads, so runs would not be repeatable.
"""

import numpy as np

__all__ = ["Mixing", "one_hot"]


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """From labels ``(B,)`` to ``(B, classes)`` float32 ones and zeros."""
    return np.eye(classes, dtype=np.float32)[labels]


class Mixing:
    """Mixes image ``i`` of a batch with image ``B - 1 - i``, and their labels with the same weights.

    With an odd batch size the image in the middle is unchanged.

    Label smoothing is applied by the loss: smoothing mixed labels equals mixing smoothed labels.

    Args:
        mixup: alpha of the beta distribution of the weights; 0 disables it.
        cutmix: the same; if both are enabled, each batch uses one of them with equal probability.
        probability: probability that a batch is mixed; the labels are soft in any case.
    """

    def __init__(self, mixup: float, cutmix: float, probability: float, classes: int):
        self.mixup = mixup
        self.cutmix = cutmix
        self.probability = probability
        self.classes = classes

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        """From images ``(B, C, H, W)``, changed in place, and labels ``(B,)`` to images and labels ``(B, classes)``."""
        labels = one_hot(labels, self.classes)
        if rng.random() >= self.probability:
            return images, labels
        if self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5):
            weight = self._cut(images, rng)
        else:
            weight = rng.beta(self.mixup, self.mixup)
            # numpy reads the reversed images before it writes: the product is an array of its own.
            other = images[::-1] * np.float32(1 - weight)
            images *= np.float32(weight)
            images += other
        weight = np.float32(weight)
        return images, labels * weight + labels[::-1] * (1 - weight)

    def _cut(self, images, rng):
        """Paste a box of the other image into each image; returns the fraction of the image that remains."""
        height, width = images.shape[-2:]
        side = np.sqrt(1 - rng.beta(self.cutmix, self.cutmix))
        top, bottom = _span(height, side, rng)
        left, right = _span(width, side, rng)
        box = np.s_[:, :, top:bottom, left:right]
        images[box] = images[::-1][box].copy()
        return 1 - (bottom - top) * (right - left) / (height * width)


def _span(length, side, rng):
    """An interval of ``side`` times ``length`` around a random centre, clipped at the ends."""
    half = int(length * side) // 2
    centre = rng.integers(length)
    return max(centre - half, 0), min(centre + half, length)

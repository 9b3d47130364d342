"""Mixup and CutMix of a whole batch, which make soft labels.

Sources: Zhang et al., arXiv:1710.09412; Yun et al., arXiv:1905.04899. MindCV's draw from a generator that all threads
share, so that no run could be repeated.
"""

import numpy as np

__all__ = ["Mixing", "one_hot"]


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """``(B,)`` class numbers to ``(B, classes)`` float32 ones and zeros."""
    return np.eye(classes, dtype=np.float32)[labels]


class Mixing:
    """Mixes each image with the one at its mirrored place in the batch, and their labels by the same shares.

    Of an odd number of images the one in the middle stays as it is.

    Smoothing the mixed labels, which is left to the loss, is the same as mixing smoothed ones.

    Args:
        mixup: alpha of the beta distribution of the shares; 0 is off.
        cutmix: the same; where both are on, each batch takes one of them, as likely as the other.
        probability: of a batch being mixed; the labels are soft either way.
    """

    def __init__(self, mixup: float, cutmix: float, probability: float, classes: int):
        self.mixup = mixup
        self.cutmix = cutmix
        self.probability = probability
        self.classes = classes

    def __call__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        """Images ``(B, C, H, W)``, changed in place, and labels ``(B,)``, to images and labels ``(B, classes)``."""
        labels = one_hot(labels, self.classes)
        if rng.random() >= self.probability:
            return images, labels
        if self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5):
            share = self._cut(images, rng)
        else:
            share = rng.beta(self.mixup, self.mixup)
            # numpy reads the reversed images before it writes: the product is an array of its own.
            other = images[::-1] * np.float32(1 - share)
            images *= np.float32(share)
            images += other
        share = np.float32(share)
        return images, labels * share + labels[::-1] * (1 - share)

    def _cut(self, images, rng):
        """Put a box of the other image into each; returns the share of the image that stays."""
        height, width = images.shape[-2:]
        side = np.sqrt(1 - rng.beta(self.cutmix, self.cutmix))
        top, bottom = _span(height, side, rng)
        left, right = _span(width, side, rng)
        box = np.s_[:, :, top:bottom, left:right]
        images[box] = images[::-1][box].copy()
        return 1 - (bottom - top) * (right - left) / (height * width)


def _span(length, side, rng):
    """A piece of ``side`` times ``length`` around a drawn centre, clipped at the ends."""
    half = int(length * side) // 2
    centre = rng.integers(length)
    return max(centre - half, 0), min(centre + half, length)

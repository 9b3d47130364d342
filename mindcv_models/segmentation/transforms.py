"""What happens to a picture and its label map before a step sees them.

Label maps are ``(H, W)`` int16: classes from 0, and ``IGNORED`` where no class counts.
"""

from typing import Optional, Sequence, Tuple

import numpy as np

from ..data.geometry import GREY, fitted_size, normalise, pad_bottom_right, resize_image, resize_labels, turn
from ..data.photometric import distort

__all__ = ["IGNORED", "TrainTransform", "target_size"]

IGNORED = -1
TRIES = 10  # draws of a crop
VARIETY = 0.75  # share of a crop that its commonest class must not reach


class TrainTransform:
    """Random scale, crop, flip and photometric distortion; then normalised and padded.

    Args:
        size: height and width of the crop.
        scale: what the picture fits into at ratio 1, long side and short side; None is its own size.
        ratio: smallest and largest random factor on ``scale``.
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
        mean, std: of the channels, 0 to 255.
        rotation: largest angle in degrees by which the picture is turned, either way; nothing counts in its corners.
    """

    def __init__(self, size: Tuple[int, int], scale: Optional[Tuple[int, int]], ratio: Tuple[float, float], flip: float,
                 photometric: bool, mean: Sequence[float], std: Sequence[float], rotation: float = 0.0):  # fmt: skip
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.flip = flip
        self.photometric = photometric
        self.mean, self.std = mean, std
        self.rotation = rotation

    def __call__(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        """``(H, W, 3)`` uint8 RGB and ``(H, W)`` int16 to ``(3, *size)`` float32 and ``(*size,)`` int32."""
        height, width = target_size(*labels.shape, self.scale, rng.uniform(*self.ratio))
        image, labels = resize_image(image, height, width), resize_labels(labels, height, width)
        if self.rotation:
            degrees = rng.uniform(-self.rotation, self.rotation)
            image, labels = turn(image, degrees, GREY), turn(labels, degrees, IGNORED, nearest=True)
        top, left = choose_crop(labels, self.size, rng)
        window = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        image, labels = image[window], labels[window]
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.photometric:
            image = distort(np.ascontiguousarray(image), rng)
        image = pad_bottom_right(normalise(image, self.mean, self.std), *self.size)
        return image, pad_bottom_right(labels.astype(np.int32), *self.size, IGNORED)


def target_size(height: int, width: int, scale: Optional[Tuple[int, int]], ratio: float) -> Tuple[int, int]:
    """Height and width of a picture that fits ``scale`` times ``ratio``, or ``ratio`` times its own size."""
    if scale is None:
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    return fitted_size(height, width, (int(scale[0] * ratio), int(scale[1] * ratio)))


def choose_crop(labels: np.ndarray, size: Tuple[int, int], rng: np.random.Generator) -> Tuple[int, int]:
    """Top and left of a random crop; drawn again, up to ten times, while it is too uniform."""
    spare = max(labels.shape[0] - size[0], 0), max(labels.shape[1] - size[1], 0)
    for _ in range(TRIES):
        top, left = int(rng.integers(spare[0] + 1)), int(rng.integers(spare[1] + 1))
        if spare == (0, 0) or is_varied(labels[top : top + size[0], left : left + size[1]]):
            break
    return top, left


def is_varied(labels: np.ndarray) -> bool:
    """Whether there are two classes and the commonest has less than three quarters of the pixels that count."""
    counts = np.bincount(labels[labels != IGNORED])
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < VARIETY

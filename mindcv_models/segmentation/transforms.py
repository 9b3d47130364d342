"""What happens to a picture and its label map before a step sees them.

Label maps are ``(H, W)`` int16: classes from 0, and ``IGNORED`` where no class counts.
"""

from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

from ..data.geometry import fitted_size, normalise, pad_bottom_right, resize_image, resize_labels

__all__ = ["IGNORED", "TrainTransform", "distort", "target_size"]

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
    """

    def __init__(self, size: Tuple[int, int], scale: Optional[Tuple[int, int]], ratio: Tuple[float, float], flip: float,
                 photometric: bool, mean: Sequence[float], std: Sequence[float]):  # fmt: skip
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.flip = flip
        self.photometric = photometric
        self.mean, self.std = mean, std

    def __call__(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        """``(H, W, 3)`` uint8 RGB and ``(H, W)`` int16 to ``(3, *size)`` float32 and ``(*size,)`` int32."""
        height, width = target_size(*labels.shape, self.scale, rng.uniform(*self.ratio))
        labels = resize_labels(labels, height, width)
        top, left = choose_crop(labels, self.size, rng)
        window = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        image, labels = resize_image(image, height, width)[window], labels[window]
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


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of ``(H, W, 3)`` uint8 RGB, each with probability one half."""

    def drawn():
        return rng.random() < 0.5

    if drawn():
        image = shift(image, rng.uniform(-32, 32))
    contrast_first = drawn()
    if contrast_first and drawn():
        image = stretch(image, rng.uniform(0.5, 1.5))
    if drawn():
        image = saturate(image, rng.uniform(0.5, 1.5))
    if drawn():
        image = rotate_hue(image, int(rng.integers(-18, 18)))
    if not contrast_first and drawn():
        image = stretch(image, rng.uniform(0.5, 1.5))
    return image


_VALUES = np.arange(256, dtype=np.float32)


def truncated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def shift(image: np.ndarray, amount: float) -> np.ndarray:
    """Brightness: add ``amount`` to all channels."""
    return cv2.LUT(image, truncated(_VALUES + np.float32(amount)))


def stretch(image: np.ndarray, factor: float) -> np.ndarray:
    """Contrast: multiply all channels."""
    return cv2.LUT(image, truncated(_VALUES * np.float32(factor)))


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the saturation, in OpenCV's 8-bit HSV."""
    identity = np.arange(256, dtype=np.uint8)
    return in_hsv(image, np.stack([identity, truncated(_VALUES * np.float32(factor)), identity], -1))


def rotate_hue(image: np.ndarray, amount: int) -> np.ndarray:
    """Add ``amount`` to the hue, 0 to 179, modulo 180."""
    identity = np.arange(256, dtype=np.uint8)
    return in_hsv(image, np.stack([((np.arange(256) + amount) % 180).astype(np.uint8), identity, identity], -1))


def in_hsv(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The image with its hue, saturation and value replaced by a table ``(256, 3)``."""
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

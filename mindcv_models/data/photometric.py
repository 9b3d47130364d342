"""Random changes of the colours of training pictures, as detectors and segmenters use them."""

import cv2
import numpy as np

__all__ = ["distort"]


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

"""Pictures before a dense network sees them: resizing that keeps the ratio, normalising, padding."""

from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

from ..errors import InputError
from .images import MAX_PIXELS

__all__ = [
    "GREY",
    "fitted_size",
    "normalise",
    "pad_bottom_right",
    "resize_image",
    "resize_labels",
    "turn",
    "turn_points",
]

GREY = 128  # around pictures that are turned or shown smaller than they are


def fitted_size(height: int, width: int, scale: Tuple[int, int]) -> Tuple[int, int]:
    """Height and width of a picture resized to fit ``scale`` with its ratio kept.

    The longer side fits the larger number of ``scale``, the shorter side the smaller one; both are rounded.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(H, W, C)`` uint8 to ``(height, width, C)``: bilinear between pixel centres, not smoothed when reduced.

    Raises:
        InputError: that is larger than :data:`~.images.MAX_PIXELS`.
    """
    if image.shape[:2] == (height, width):
        return image
    refuse_large(image, height, width)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def refuse_large(image: np.ndarray, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(
            f"an image of {image.shape[1]} x {image.shape[0]} would be resized to {width} x {height}, more than "
            f"{MAX_PIXELS:,} pixels: use a smaller img_scale or smaller factors."
        )


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(H, W)`` of any type to ``(height, width)``: pixel ``i`` comes from ``floor(i * H / height)``."""
    if labels.shape == (height, width):
        return labels
    rows = np.arange(height) * labels.shape[0] // height
    columns = np.arange(width) * labels.shape[1] // width
    return labels[rows[:, None], columns]


def turn(array: np.ndarray, degrees: float, fill: int, nearest: bool = False, size: Optional[Tuple[int, int]] = None,
         window: Optional[Tuple[int, int, int, int]] = None) -> np.ndarray:  # fmt: skip
    """``(H, W)`` or ``(H, W, C)`` turned counter-clockwise about its centre; ``fill`` is what comes from outside.

    Args:
        nearest: take the nearest pixel rather than interpolate.
        size: height and width to which it is resized in the same step, pixel centres kept in place.
        window: top, left, height and width of the only part of the result that is made.

    Raises:
        InputError: ``size`` is larger than :data:`~.images.MAX_PIXELS`.
    """
    height, width = size or array.shape[:2]
    refuse_large(array, height, width)
    top, left, *shown = window or (0, 0, height, width)
    factors = np.array([width / array.shape[1], height / array.shape[0]])
    matrix = _turning(height, width, degrees)
    matrix[:, 2] += matrix[:, :2] @ (factors - 1) / 2 - (left, top)
    matrix[:, :2] *= factors
    return cv2.warpAffine(
        array, matrix, shown[::-1], flags=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR, borderValue=(fill,) * 4
    )


def turn_points(points: np.ndarray, height: int, width: int, degrees: float) -> np.ndarray:
    """Where points (x, y) of an image, ``(..., 2)``, lie after :func:`turn`; the image's corner is (0, 0)."""
    matrix = _turning(height, width, degrees)
    return (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5


def _turning(height, width, degrees):
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)


def normalise(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """``(H, W, C)`` uint8 to ``(C, H, W)`` float32: less ``mean``, over ``std``, both on the scale 0 to 255."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planes -= np.float32(mean)[:, None, None]
    planes *= (1 / np.float64(std)).astype(np.float32)[:, None, None]
    return planes


def pad_bottom_right(array: np.ndarray, height: int, width: int, value: float = 0) -> np.ndarray:
    """``(..., H, W)`` to ``(..., height, width)``: ``value`` below and to the right."""
    missing = height - array.shape[-2], width - array.shape[-1]
    if not any(missing):
        return array
    margins = ((0, 0),) * (array.ndim - 2) + ((0, missing[0]), (0, missing[1]))
    return np.pad(array, margins, constant_values=value)

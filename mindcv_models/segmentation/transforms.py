"""What happens to a picture and its label map before a step sees them.

Label maps are ``(H, W)`` int16: classes from 0, and ``IGNORED`` where no class counts.
"""

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..data.geometry import GREY, fitted_size, normalise, pad_bottom_right, resize_image, resize_labels, turn
from ..data.photometric import distort

__all__ = ["IGNORED", "TrainTransform", "target_size"]

Pair = Tuple[np.ndarray, np.ndarray]  # a picture (H, W, 3) uint8 and its label map (H, W) int16

IGNORED = -1  # the label below the first class
TRIES = 10  # draws of a crop
VARIETY = 0.75  # share of a crop that its commonest class must not reach


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop, flip and photometric distortion; then normalised and padded.

    Objects of other pictures, scaled and cropped alike, are pasted over the crop: Copy-Paste (Ghiasi et al., CVPR 2021,
    arXiv:2012.07177) for label maps, where whatever is not of a picture's commonest class is an object. A margin around
    them comes with them, so that their edges look as they do elsewhere.

    Args:
        size: height and width of the crop.
        scale: what the picture fits into at ratio 1, long side and short side; None is its own size.
        ratio: smallest and largest random factor on ``scale``.
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
        mean, std: of the channels, 0 to 255.
        rotation: largest angle in degrees by which the picture is turned, either way; nothing counts in its corners.
        copy_paste: how many pictures' objects are pasted.
        paste_margin: width of that margin, in pixels of the crop.
        draw: a random other picture and its label map, as read.
    """

    size: Tuple[int, int]
    scale: Optional[Tuple[int, int]]
    ratio: Tuple[float, float]
    flip: float
    photometric: bool
    mean: Sequence[float]
    std: Sequence[float]
    rotation: float = 0.0
    copy_paste: int = 0
    paste_margin: int = 0
    draw: Optional[Callable[[np.random.Generator], Pair]] = None

    def __call__(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator):
        """``(H, W, 3)`` uint8 RGB and ``(H, W)`` int16 to ``(3, *size)`` float32 and ``(*size,)`` int32."""
        image, labels = self.crop(image, labels, rng)
        for _ in range(self.copy_paste):
            other, other_labels = self.draw(rng)
            background = commonest(other_labels)
            other, other_labels = self.crop(other, other_labels, rng, tries=1)
            objects = (other_labels != IGNORED) & (other_labels != background)
            image, labels = paste(image, labels, other, other_labels, widened(objects, self.paste_margin))
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.photometric:
            image = distort(np.ascontiguousarray(image), rng)
        image = pad_bottom_right(normalise(image, self.mean, self.std), *self.size)
        return image, pad_bottom_right(labels.astype(np.int32), *self.size, IGNORED)

    def crop(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator, tries: int = TRIES) -> Pair:
        """A part of the picture, at most as large as ``size``, after random scale and rotation."""
        size = target_size(*labels.shape, self.scale, rng.uniform(*self.ratio))
        degrees = rng.uniform(-self.rotation, self.rotation) if self.rotation else 0.0
        if degrees:
            labels = turn(labels, degrees, IGNORED, True, size)
        else:
            image, labels = resize_image(image, *size), resize_labels(labels, *size)
        top, left = choose_crop(labels, self.size, rng, tries)
        window = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        labels = labels[window]
        if degrees:  # no more of the picture than is seen
            return turn(image, degrees, GREY, size=size, window=(top, left, *labels.shape)), labels
        return image[window], labels


def paste(
    image: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, chosen: np.ndarray
) -> Pair:
    """The chosen pixels of ``other`` over those of ``image``; both lie at the top left, whatever their sizes."""
    height, width = (min(sides) for sides in zip(labels.shape, other_labels.shape))
    window = slice(height), slice(width)
    image, labels, chosen = image.copy(), labels.copy(), chosen[window]
    cv2.copyTo(other[window], chosen.astype(np.uint8), image[window])
    np.copyto(labels[window], other_labels[window], where=chosen)
    return image, labels


def widened(mask: np.ndarray, margin: int) -> np.ndarray:
    """A mask ``(H, W)`` bool, and the pixels that are at most ``margin`` from it, across, down and diagonally."""
    square = np.ones((2 * margin + 1,) * 2, np.uint8)
    return cv2.dilate(mask.astype(np.uint8), square).astype(bool)


def pixels_by_class(labels: np.ndarray) -> np.ndarray:
    """How many pixels each class has, ``(K,)``, up to the last one that has any."""
    return np.bincount((labels - IGNORED).ravel())[1:]


def commonest(labels: np.ndarray) -> int:
    """The class of most pixels; ``IGNORED`` where none counts."""
    counts = pixels_by_class(labels)
    return int(counts.argmax()) if counts.size else IGNORED


def target_size(height: int, width: int, scale: Optional[Tuple[int, int]], ratio: float) -> Tuple[int, int]:
    """Height and width of a picture that fits ``scale`` times ``ratio``, or ``ratio`` times its own size."""
    if scale is None:
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    return fitted_size(height, width, (int(scale[0] * ratio), int(scale[1] * ratio)))


def choose_crop(
    labels: np.ndarray, size: Tuple[int, int], rng: np.random.Generator, tries: int = TRIES
) -> Tuple[int, int]:
    """Top and left of a random crop; drawn again, up to ``tries`` times in all, while it is too uniform."""
    spare = max(labels.shape[0] - size[0], 0), max(labels.shape[1] - size[1], 0)
    likely = commonest(labels[::8, ::8])
    for k in range(tries):
        top, left = int(rng.integers(spare[0] + 1)), int(rng.integers(spare[1] + 1))
        window = labels[top : top + size[0], left : left + size[1]]
        if k == tries - 1 or spare == (0, 0) or is_varied(window, likely):
            break
    return top, left


def is_varied(labels: np.ndarray, likely: int = 0) -> bool:
    """Whether there are two classes and the commonest has less than three quarters of the pixels that count.

    Args:
        likely: a class that may well be the commonest, and is counted first.
    """
    if np.count_nonzero(labels == likely) >= VARIETY * np.count_nonzero(labels != IGNORED):
        return False
    counts = pixels_by_class(labels)
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < VARIETY

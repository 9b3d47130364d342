"""Random views of training images: objects of other sizes, at other places, in other colours."""

from dataclasses import dataclass, replace
from typing import Any, Optional, Tuple

import numpy as np

from ..data.geometry import GREY, turn, turn_points
from ..data.photometric import distort
from ..errors import InputError
from .boxes import clip
from .coco import Annotated, Raw
from .masks import RunLengths

__all__ = ["Views"]

TRIES = 10  # draws of a window, while there is no object in it


@dataclass(frozen=True)
class Views:
    """A decoded image to what training sees of it; no random number is drawn for what does not change.

    Attributes:
        ratio: smallest and largest random factor on the size of objects. A window of the image's proportions, smaller
            or larger than it by that factor, lies at random within it or around it; what is outside is grey. Objects
            whose centre is in the window are kept, and clipped to it.
        photometric: change brightness, contrast, saturation and hue.
        masks: keep the objects' masks.
        rotation: largest angle in degrees by which the image is turned about its centre, either way. Objects whose
            centre stays in the image are kept; their boxes are those of their masks, or enclose their turned boxes.
    """

    ratio: Tuple[float, float] = (1.0, 1.0)
    photometric: bool = False
    masks: bool = False
    rotation: float = 0.0

    def __call__(self, raw: Raw, rng: np.random.Generator) -> Raw:
        if self.ratio != (1.0, 1.0):
            raw = self.framed(raw, *self.window(raw.image, rng))
        if self.rotation:
            raw = self.turned(raw, rng.uniform(-self.rotation, self.rotation))
        if self.photometric:
            raw = replace(raw, pixels=distort(raw.pixels, rng))
        return raw

    def window(self, image: Annotated, rng: np.random.Generator) -> Tuple[int, int, int, int]:
        """Top, left, height and width, in pixels of the image; drawn again while no object has its centre in it."""
        for _ in range(TRIES):
            factor = rng.uniform(*self.ratio)
            height, width = (max(1, round(side / factor)) for side in (image.height, image.width))
            # A wide image stays wide, since that decides the shape of its batch.
            width = max(width, height + 1) if image.width > image.height else min(width, height)
            top, left = (draw(rng, spare) for spare in (image.height - height, image.width - width))
            if centred(image.boxes, top, left, height, width).any():
                break
        return top, left, height, width

    def framed(self, raw: Raw, top: int, left: int, height: int, width: int) -> Raw:
        """What is in a window of an image."""
        image = raw.image
        kept = np.flatnonzero(centred(image.boxes, top, left, height, width))
        boxes = clip(image.boxes[kept] - np.array([left, top, left, top], np.float32), (height, width))
        masks = [self.cut(image, k, top, left, height, width) for k in kept] if self.masks or self.rotation else []
        pixels = window_of(raw.pixels, top, left, height, width, GREY)
        view = replace(
            image, height=height, width=width, boxes=boxes, classes=image.classes[kept], segmentations=masks
        )  # fmt: skip
        return Raw(view, pixels)

    def cut(self, image: Annotated, index: int, *window: int) -> Any:
        """The mask of an object in a window, as run lengths; None if it has none, which training refuses itself."""
        whole = self.bitmap(image, index)
        return None if whole is None else RunLengths.of_bitmap(window_of(whole, *window, False)).annotation()

    def bitmap(self, image: Annotated, index: int) -> Optional[np.ndarray]:
        """The mask of an object, ``(H, W)`` bool; None if it has none, or one that makes no sense and is not needed."""
        segmentation = image.segmentations[index] if image.segmentations else None
        if segmentation is None:
            return None
        try:
            return RunLengths.of(segmentation, image.height, image.width).bitmap()
        except InputError:
            if self.masks:
                raise
            return None

    def turned(self, raw: Raw, degrees: float) -> Raw:
        """An image turned counter-clockwise about its centre."""
        image, size = raw.image, (raw.image.height, raw.image.width)
        boxes, masks = np.zeros_like(image.boxes), []
        for k, box in enumerate(image.boxes):
            mask = self.bitmap(image, k)
            if mask is not None:
                mask = RunLengths.of_bitmap(turn(mask.astype(np.uint8), degrees, 0, nearest=True))
            boxes[k] = mask.box() if mask is not None and mask.area() else enclosing(box, *size, degrees)
            masks.append(None if mask is None else mask.annotation())
        x, y = turn_points((image.boxes[:, :2] + image.boxes[:, 2:]) / 2, *size, degrees).T
        kept = np.flatnonzero((x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]))
        view = replace(
            image, boxes=clip(boxes[kept], size), classes=image.classes[kept],
            segmentations=[masks[k] for k in kept] if self.masks else [],
        )  # fmt: skip
        return Raw(view, turn(raw.pixels, degrees, GREY))


def enclosing(box: np.ndarray, height: int, width: int, degrees: float) -> np.ndarray:
    """The box around a box of an image that is turned."""
    x1, y1, x2, y2 = box
    corners = turn_points(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), height, width, degrees)
    return np.concatenate([corners.min(0), corners.max(0)])


def draw(rng: np.random.Generator, spare: int) -> int:
    """Where a window begins: within the image, ``spare`` pixels longer than it, or before it."""
    return int(rng.integers(min(spare, 0), max(spare, 0) + 1))


def centred(boxes: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Which boxes ``(G, 4)`` have their centre in a window, ``(G,)``."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2 - left, (boxes[:, 1] + boxes[:, 3]) / 2 - top
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def window_of(array: np.ndarray, top: int, left: int, height: int, width: int, fill) -> np.ndarray:
    """A window of ``(H, W, ...)``, ``(height, width, ...)``; ``fill`` is what lies outside."""
    out = np.full((height, width, *array.shape[2:]), fill, array.dtype)
    rows = slice(max(top, 0), min(top + height, array.shape[0]))
    columns = slice(max(left, 0), min(left + width, array.shape[1]))
    inside = array[rows, columns]
    y, x = rows.start - top, columns.start - left
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out

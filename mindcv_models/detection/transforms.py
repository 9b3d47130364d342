"""From a decoded image and its boxes to arrays of fixed shape."""

from dataclasses import dataclass
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from ..data.geometry import fitted_size, normalise, pad_bottom_right, resize_image
from .anchors import RETINANET, Anchors
from .assign import retinanet_targets
from .boxes import clip
from .coco import Annotated, Raw
from .views import Views

__all__ = ["Buckets", "EvalTransform", "Preparation", "Prepared", "TrainTransform", "flip_boxes"]

MULTIPLE = 32  # of which the sides of a padded image are multiples

Size = Tuple[int, int]


def padded_size(height: int, width: int) -> Size:
    """The smallest multiples of 32 that hold an image."""
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


@dataclass(frozen=True)
class Buckets:
    """The few shapes that images are padded to, since a network is compiled once a shape.

    Wide images (wider than high) get one shape, all others the same shape on its side; images of one batch are all
    wide, or none is.

    Attributes:
        scale: two sides in pixels that an image is resized to fit; see
            :func:`mindcv_models.data.geometry.fitted_size`.
    """

    scale: Tuple[int, int]

    @property
    def shapes(self) -> Tuple[Size, ...]:
        """Height and width for images that are not wide, and for wide ones; one shape if they are the same."""
        short, long = padded_size(min(self.scale), max(self.scale))
        return ((long, short), (short, long)) if short != long else ((short, long),)

    def group(self, image: Annotated) -> int:
        """The place of the image's shape among :attr:`shapes`."""
        return int(image.width > image.height) if len(self.shapes) > 1 else 0


class Prepared(NamedTuple):
    """An image as the network sees it, but for its padding to a bucket, and what became of its boxes.

    Attributes:
        pixels: ``(3, h, w)`` float32, normalised.
        boxes: ``(G, 4)`` float32, resized and clipped.
        scale: width and height of the resized image by those of the original, float32.
        flipped: whether left and right changed places.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    scale: np.ndarray
    flipped: bool

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]


@dataclass(frozen=True)
class Preparation:
    """Resizing with the ratio kept, flipping, normalising: section 6 of the LITv2 detectors' recipes.

    Attributes:
        scale: see :class:`Buckets`.
        mean, std: of the channels, on the scale 0 to 255.
    """

    scale: Tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, pixels: np.ndarray, boxes: np.ndarray, flip: bool = False) -> Prepared:
        height, width = pixels.shape[:2]
        new_height, new_width = fitted_size(height, width, self.scale)
        scale = np.array([new_width / width, new_height / height], np.float32)
        boxes = clip(boxes * np.tile(scale, 2), (new_height, new_width))
        pixels = resize_image(pixels, new_height, new_width)
        if flip:
            pixels, boxes = pixels[:, ::-1], flip_boxes(boxes, new_width)
        return Prepared(normalise(pixels, self.mean, self.std), boxes, scale, flip)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes in an image of ``width`` whose left and right change places."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], 1)


@dataclass(frozen=True)
class TrainTransform:
    """What one image is to RetinaNet's training: pixels ``(3, H, W)``, labels ``(A,)`` and deltas ``(A, 4)``.

    Attributes:
        flip: chance that left and right change places.
        views: what is shown of the image.
    """

    prepare: Preparation
    buckets: Buckets
    num_classes: int
    flip: float = 0.5
    anchors: Anchors = RETINANET
    views: Views = Views()

    def __call__(self, raw: Raw, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        raw = self.views(raw, rng)
        prepared = self.prepare(raw.pixels, raw.image.boxes, bool(rng.random() < self.flip))
        shape = self.buckets.shapes[self.buckets.group(raw.image)]
        sizes = self.anchors.sizes(*shape)
        valid = self.anchors.valid(sizes, padded_size(*prepared.size))
        labels, deltas = retinanet_targets(
            self.anchors.all(sizes), valid, prepared.boxes, raw.image.classes, self.num_classes
        )
        return pad_bottom_right(prepared.pixels, *shape), labels, deltas


@dataclass(frozen=True)
class EvalTransform:
    """One image to be searched: pixels ``(3, H, W)``, id, size (height, width) and scale (width, height).

    Attributes:
        own_shape: pad to multiples of 32 and no further, as the official evaluation does, rather than to a bucket.
    """

    prepare: Preparation
    buckets: Buckets
    own_shape: bool = False

    def __call__(self, raw: Raw, _rng=None) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        prepared = self.prepare(raw.pixels, np.zeros((0, 4), np.float32))
        shape = self.shape(raw.image)
        pixels = pad_bottom_right(prepared.pixels, *shape)
        return pixels, np.int64(raw.image.id), np.array(prepared.size, np.int32), prepared.scale

    def shape(self, image: Annotated) -> Size:
        """Height and width that an image is padded to."""
        if self.own_shape:
            return padded_size(*fitted_size(image.height, image.width, self.prepare.scale))
        return self.buckets.shapes[self.buckets.group(image)]

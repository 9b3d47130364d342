"""From a decoded image with boxes and masks to arrays of fixed shape, for Mask R-CNN's training."""

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from ..data.geometry import fitted_size, pad_bottom_right
from ..errors import InputError
from .anchors import RPN, Anchors
from .boxes import clip
from .coco import Annotated, CocoSet, Raw
from .masks import RunLengths, bytes_needed, pack
from .transforms import Buckets, Preparation, padded_size
from .two_stage import rpn_targets
from .views import Views

__all__ = ["MaskTrainTransform", "Room", "masks_of"]


def masks_of(image: Annotated) -> List[RunLengths]:
    """The masks of an image's objects.

    Raises:
        InputError: an object has none, or one that makes no sense; it names the image.
    """
    masks = []
    for segmentation in image.segmentations:
        try:
            if segmentation is None:
                raise InputError("an object has no segmentation, but Mask R-CNN learns from masks: train a RetinaNet.")
            masks.append(RunLengths.of(segmentation, image.height, image.width))
        except InputError as error:
            raise InputError(f"image {image.id}, {image.file_name}: {error}") from error
    return masks


@dataclass(frozen=True)
class Room:
    """How much room a data set's objects need, so that every batch has the same shape.

    Attributes:
        rows: objects of an image at most.
        capacity: bytes of an image's packed masks at most.
    """

    rows: int
    capacity: int

    @classmethod
    def of(cls, data: CocoSet, scale: Tuple[int, int], enlarged: float = 1.0, turned: bool = False) -> "Room":
        """The room for a data set whose images are resized to fit ``scale``, objects up to ``enlarged`` times more.

        Args:
            turned: whether images are turned, by any angle.
        """
        rows, capacity = 1, 1
        for image in data.images:
            height, width = fitted_size(image.height, image.width, scale)
            boxes = clip(image.boxes, (image.height, image.width))
            rows = max(rows, len(boxes))
            factors = max(1.0, enlarged) * width / image.width, max(1.0, enlarged) * height / image.height
            capacity = max(capacity, bytes_needed(squares(boxes) if turned else boxes, factors))
        return cls(rows, -(-capacity // 1024) * 1024)


def squares(boxes: np.ndarray) -> np.ndarray:
    """Squares ``(G, 4)`` that hold boxes ``(G, 4)`` however they are turned about their centres."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T)[:, None]
    return np.concatenate([centres - sides / 2, centres + sides / 2], 1)


@dataclass(frozen=True)
class MaskTrainTransform:
    """What one image is to Mask R-CNN's training; see :meth:`two_stage.MaskRCNNObjective.construct`.

    Attributes:
        room: for objects and masks.
        regions: of the first stage's at most; the random numbers that choose among them come with the image.
        flip: chance that left and right change places.
        views: what is shown of the image.
    """

    prepare: Preparation
    buckets: Buckets
    room: Room
    per_level: int = 2000
    regions: int = 1000
    flip: float = 0.5
    anchors: Anchors = RPN
    views: Views = Views()

    def __call__(self, raw: Raw, rng: np.random.Generator) -> Tuple[np.ndarray, ...]:
        raw = self.views(raw, rng)
        image = raw.image
        prepared = self.prepare(raw.pixels, image.boxes, bool(rng.random() < self.flip))
        shape = self.buckets.shapes[self.buckets.group(image)]
        sizes = self.anchors.sizes(*shape)
        valid = self.anchors.valid(sizes, padded_size(*prepared.size))
        first = rpn_targets(self.anchors.all(sizes), valid, prepared.boxes, rng)
        masks = pack(masks_of(image), image.boxes, prepared.size, prepared.flipped, self.room.rows, self.room.capacity)
        draws = rng.random(self.room.rows + self.count(sizes), np.float32)
        pixels = pad_bottom_right(prepared.pixels, *shape)
        return pixels, np.array(prepared.size, np.float32), *first, *self.objects(prepared, image), *masks, draws

    def objects(self, prepared, image) -> Tuple[np.ndarray, np.ndarray]:
        """Boxes ``(rows, 4)`` and classes ``(rows,)``, -1 for rows without an object."""
        boxes, labels = np.zeros((self.room.rows, 4), np.float32), np.full(self.room.rows, -1, np.int32)
        count = len(image.classes)
        boxes[:count], labels[:count] = prepared.boxes, image.classes
        return boxes, labels

    def count(self, sizes) -> int:
        """How many regions the first stage gives for maps of these sizes."""
        return min(self.regions, sum(min(count, self.per_level) for count in self.anchors.counts(sizes)))

"""The detectors: what each learns from, what it is trained with, and how it is asked."""

from dataclasses import replace
from typing import Dict, Protocol, Tuple, Type

import numpy as np
from mindspore import nn

from ..training import Objective
from .anchors import RPN, retinanet_anchors
from .coco import Annotated, CocoSet, Raw
from .mask_data import MaskTrainTransform, Room, masks_of
from .mask_validator import MaskValidator
from .objective import RetinaNetObjective
from .options import TrainOptions
from .transforms import Buckets, Preparation, TrainTransform
from .two_stage import MaskRCNNObjective
from .validator import DetectionValidator
from .views import Views

__all__ = ["System", "system_of"]

Arrays = Tuple[np.ndarray, ...]


class System(Protocol):
    """One kind of detector.

    Attributes:
        validator: finds its average precision; its attribute ``detector`` is what finds the objects of a batch.
    """

    validator: Type[DetectionValidator]

    def train_transform(self, options: TrainOptions, prepare: Preparation, buckets: Buckets, data: CocoSet):
        """From a decoded image of ``data`` to the arrays that the objective takes."""

    def objective(self, options: TrainOptions, network: nn.Cell) -> Objective:
        """What ``network`` is trained with."""

    def check_objects(self, image: Annotated) -> None:
        """Refuse an image whose annotations cannot be trained on.

        Raises:
            InputError: naming the image.
        """

    def example(self, options: TrainOptions, size: Tuple[int, int]) -> Arrays:
        """A training batch of noise at height and width ``size``, a multiple of 32."""


class RetinaNetSystem:
    """See :class:`System`."""

    validator = DetectionValidator

    def train_transform(self, options, prepare, buckets, data):
        anchors = retinanet_anchors(options.anchor_scale or 4.0)
        views = Views(tuple(options.ratio_range), options.photometric, rotation=options.rotation)
        return TrainTransform(prepare, buckets, options.num_classes, options.hflip, anchors, views)

    def objective(self, options, network):
        return RetinaNetObjective(network, cls_weight=options.cls_weight)

    def check_objects(self, image):
        pass  # boxes are all that it needs, and are checked as they are read

    def example(self, options, size):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((options.batch_size, options.in_channels, *size), np.float32)
        known = retinanet_anchors(options.anchor_scale or 4.0)
        anchors = sum(known.counts(known.sizes(*size)))
        labels = np.full((options.batch_size, anchors), options.num_classes, np.int32)
        labels[:, ::100] = 0
        return images, labels, rng.standard_normal((options.batch_size, anchors, 4), np.float32)


class MaskRCNNSystem:
    """See :class:`System`."""

    validator = MaskValidator

    def train_transform(self, options, prepare, buckets, data):
        room = Room.of(data, buckets.scale, max(options.ratio_range), turned=options.rotation > 0)
        return MaskTrainTransform(
            prepare, buckets, room, regions=options.regions, flip=options.hflip,
            anchors=replace(RPN, scales=(options.anchor_scale or RPN.scales[0],)),
            views=Views(tuple(options.ratio_range), options.photometric, masks=True, rotation=options.rotation),
        )  # fmt: skip

    def objective(self, options, network):
        return MaskRCNNObjective(network, regions=options.regions, samples=options.region_samples)

    def check_objects(self, image):
        masks_of(image)

    def example(self, options, size):
        rng = np.random.default_rng(0)
        prepare = Preparation(size, (0.0,) * 3, (1.0,) * 3)
        image = Annotated(0, "noise", *size)
        corner = rng.uniform(0, 0.6, (5, 2)) * size[::-1]
        image.boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (5, 2)) * size[::-1]], 1)
        image.boxes = image.boxes.astype(np.float32)
        image.classes = np.zeros(5, np.int32)
        image.segmentations = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in image.boxes.tolist()]
        data = CocoSet(None, None, (), (image,))
        transform = self.train_transform(options, prepare, Buckets(size), data)
        pixels = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        samples = [transform(Raw(image, pixels), rng) for _ in range(options.batch_size)]
        images, *rest = (np.stack(column) for column in zip(*samples))
        return (rng.standard_normal(images.shape, np.float32), *rest)


SYSTEMS: Dict[str, System] = {"retinanet": RetinaNetSystem(), "mask_rcnn": MaskRCNNSystem()}


def system_of(model: str) -> System:
    """What belongs to a registered detector."""
    return SYSTEMS[model]

"""Mask R-CNN on images: two graphs of fixed shape, and what happens between them in NumPy."""

from typing import Dict, List, NamedTuple, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ..graph_cache import call_cached
from .paste import detect_regions, mask_regions, paste
from .predict import LIMITS, Detections, Limits
from .regions import Proposals

__all__ = ["Instances", "MaskDetector"]

# Rows of masks that the second graph may have; the fewest that suffice for a batch are used.
ROWS = (8, 16, 32, 64, 100)
SIDE = 28


class Instances(NamedTuple):
    """The objects found in one image, by descending score, as :class:`Detections`, with their masks.

    Attributes:
        masks: ``(N, 28, 28)`` float32 logits; :meth:`bitmaps` draws them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    def bitmaps(self, size: Tuple[int, int]) -> np.ndarray:
        """``(N, height, width)`` bool, for an image of ``size``."""
        return paste(self.masks, self.boxes, size)


class FirstGraph(nn.Cell):
    """Images ``(B, 3, H, W)`` and their sizes ``(B, 2)`` to regions and what the second stage says of them.

    Returns:
        Regions ``(B, R, 4)``, zeros for rows that do not count; logits ``(B, R, C + 1)`` and deltas ``(B, R, 4 * C)``;
        the neck's maps.
    """

    def __init__(self, network: nn.Cell, per_level: int = 1000, regions: int = 1000):
        super().__init__(auto_prefix=False)
        self.network = network
        self.proposals = Proposals(per_level, regions, anchor_scale=network.anchor_scale)

    def construct(self, images, sizes):
        logits, deltas, maps = self.network(images)
        regions, _, _ = self.proposals(logits, deltas, sizes, tuple([x.shape[2:] for x in maps]))
        b, r, _ = regions.shape
        logits, deltas = self.network.roi_head.boxes(maps, regions)
        logits, deltas = logits.astype(ms.float32).reshape(b, r, -1), deltas.astype(ms.float32).reshape(b, r, -1)
        return regions, logits, deltas, maps


class SecondGraph(nn.Cell):
    """Regions ``(B, M, 4)`` with their classes ``(B, M)``, and the neck's maps, to mask logits ``(B, M, side, side)``.

    The maps are arguments of their own: in a tuple they would be constants, and every call a compilation.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, regions, labels, *maps):
        logits = self.network.roi_head.own_masks(maps, regions, labels).astype(ms.float32)
        return logits.reshape(*labels.shape, *logits.shape[1:])


class MaskDetector:
    """A Mask R-CNN and what follows it: batches to the objects in each image.

    It compiles one graph for a shape of batch, and up to five for the masks, by how many objects there are.
    """

    def __init__(self, network: nn.Cell, limits: Limits = LIMITS):
        self.network, self.limits = network, limits
        self.first, self.second = FirstGraph(network, limits.per_level), SecondGraph(network)

    def __call__(self, images: np.ndarray, sizes: np.ndarray, scales: np.ndarray, valid: np.ndarray
                 ) -> List[Instances]:  # fmt: skip
        """The objects of each row that is ``valid``.

        Args:
            images: ``(B, 3, H, W)``.
            sizes: height and width of each, without padding, ``(B, 2)``.
            scales: width and height by those of the original, ``(B, 2)``.
        """
        sides = Tensor(np.asarray(sizes, np.float32))
        outputs = call_cached("graph of the regions", self.first, Tensor.from_numpy(images), sides)
        regions, logits, deltas = (each.asnumpy() for each in outputs[:3])
        found = {
            row: detect_regions(logits[row], deltas[row], regions[row], sizes[row], scales[row], self.limits)
            for row in np.flatnonzero(valid)
        }
        masks = self.masks(outputs[3], found, scales)
        return [Instances(*objects, masks[row]) for row, objects in found.items()]

    def masks(self, maps, found: Dict[int, Detections], scales: np.ndarray) -> Dict[int, np.ndarray]:
        """The mask logits of what was found in each row of the batch, ``(N, side, side)``."""
        most = max((len(objects.boxes) for objects in found.values()), default=0)
        if most == 0:
            return {row: np.zeros((0, SIDE, SIDE), np.float32) for row in found}
        rows = next((count for count in ROWS if count >= most), most)
        regions, labels = np.zeros((len(scales), rows, 4), np.float32), np.zeros((len(scales), rows), np.int32)
        for row, objects in found.items():
            regions[row, : len(objects.boxes)] = mask_regions(objects.boxes, scales[row])
            labels[row, : len(objects.boxes)] = objects.labels
        inputs = Tensor(regions), Tensor(labels), *maps[:4]
        logits = call_cached("graph of the masks", self.second, *inputs).asnumpy()
        return {row: logits[row, : len(objects.boxes)] for row, objects in found.items()}

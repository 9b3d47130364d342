"""Average precision of a detector on a data set, each image once whatever the number of devices."""

import json
from typing import Any, Dict, Iterator, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ..data.images import UnreadableImageError
from ..data.loader import Loader
from ..data.order import ShareOrder
from ..distributed import ONE_DEVICE, World, gather_bytes
from ..evaluation import Result
from ..graph_cache import call_cached
from .anchors import retinanet_anchors
from .coco import Annotated, CocoSet, Raw
from .evaluate import NAMES, Evaluation, GroundTruth, to_results
from .predict import LIMITS, Detections, Limits, detect
from .transforms import EvalTransform

__all__ = ["DetectionValidator", "Detector", "eval_loaders"]


class Tolerant:
    """A source whose unreadable images are black, and are to be left out of the evaluation.

    Attributes:
        bad: ids of the images that could not be decoded.
    """

    def __init__(self, data: CocoSet):
        self.data = data
        self.bad: List[int] = []

    def __len__(self):
        return len(self.data)

    def name(self, index):
        return self.data.name(index)

    def read(self, index) -> Raw:
        try:
            return self.data.read(index)
        except UnreadableImageError:
            image = self.data.images[index]
            self.bad.append(image.id)
            return Raw(image, np.zeros((image.height, image.width, 3), np.uint8))


def eval_loaders(source, transform: EvalTransform, batch_size: int, workers: int, world: World) -> Iterator[Loader]:
    """A loader for each shape that images are padded to; together they show this rank's share of the images once.

    Their batches are those of ``transform``, and which rows are no padding.
    """
    images = source.data.images if isinstance(source, Tolerant) else source.images
    shapes = [transform.shape(image) for image in images]
    for shape in sorted(set(shapes)):
        members = np.array([k for k, own in enumerate(shapes) if own == shape])
        order = _Share(members, world)
        yield Loader(source, order, transform, batch_size, last="pad", workers=workers)


class _Share(ShareOrder):
    """Some images, each once over all ranks."""

    def __init__(self, members: np.ndarray, world: World):
        super().__init__(len(members), world.rank, world.size)
        object.__setattr__(self, "members", members)

    def __call__(self, epoch):
        return self.members[super().__call__(epoch)]


class Detector:
    """A network and what follows it: batches to the objects in each image.

    The network is compiled once for every shape of a batch.
    """

    def __init__(self, network: nn.Cell, limits: Limits = LIMITS):
        self.network = network
        self.limits = limits
        self.anchors = retinanet_anchors(network.anchor_scale)

    def __call__(self, images: np.ndarray, sizes: np.ndarray, scales: np.ndarray, valid: np.ndarray
                 ) -> List[Detections]:  # fmt: skip
        """The objects of each row that is ``valid``.

        Args:
            images: ``(B, 3, H, W)``.
            sizes: height and width of each, without padding, ``(B, 2)``.
            scales: width and height by those of the original, ``(B, 2)``.
        """
        outputs = call_cached("graph of the network", self.network, Tensor.from_numpy(images))
        logits, deltas = (output.astype(ms.float32).asnumpy() for output in outputs)
        sizes_of_maps = self.anchors.sizes(*images.shape[2:])
        anchors, counts = self.anchors.all(sizes_of_maps), self.anchors.counts(sizes_of_maps)
        return [
            detect(logits[row], deltas[row], anchors, counts, sizes[row], scales[row], self.limits)
            for row in np.flatnonzero(valid)
        ]


class DetectionValidator:
    """Validates a detector on a data set; see :class:`mindcv_models.evaluation.Validator`.

    Args:
        data: the validation images.
        skip_bad: leave out images that cannot be decoded, rather than raise.
    """

    detector = Detector  # what finds the objects of a batch
    kinds: Dict[str, str] = {"box": "bbox"}  # what is evaluated, by pycocotools' names
    columns: Tuple[str, ...] = tuple(f"box_{name}" for name in NAMES)

    def __init__(self, network: nn.Cell, data: CocoSet, transform: EvalTransform, batch_size: int, workers: int = 1,
                 limits: Limits = LIMITS, world: World = ONE_DEVICE, skip_bad: bool = False):  # fmt: skip
        self.detector = type(self).detector(network, limits)
        self.data, self.transform = data, transform
        self.batch_size, self.workers, self.world = batch_size, workers, world
        self.skip_bad = skip_bad
        self.truth = GroundTruth(data)

    def results_of(self, image: Annotated, found) -> List[Dict[str, Any]]:
        """The objects of one image in COCO's format of results."""
        return to_results(image.id, found, self.data.categories)

    def __call__(self) -> Result:
        evaluations, _ = self.run()
        values = dict(zip(self.columns, [share for each in evaluations.values() for share in each.values.values()]))
        figures = [
            f"{kind} AP {100 * each.values['ap']:.2f} %, AP50 {100 * each.values['ap50']:.2f} %"
            for kind, each in evaluations.items()
        ]
        ap = evaluations[list(self.kinds)[-1]].values["ap"]
        return Result(values, ap, len(self.data), ap == 0, f"{', '.join(figures)} on {len(self.data)} images")

    def run(self) -> Tuple[Dict[str, Evaluation], List[Dict[str, Any]]]:
        """The evaluations of the network's current weights by kind, and the results in COCO's format, on every rank."""
        was_training = self.detector.network.training
        self.detector.network.set_train(False)
        results, bad = self._detect()
        self.detector.network.set_train(was_training)
        truth = self.truth
        if bad:
            truth = GroundTruth(self.data.chosen([k for k, i in enumerate(self.data.images) if i.id not in bad]))
        return {kind: truth.evaluate(results, name) for kind, name in self.kinds.items()}, results

    def _detect(self):
        source = Tolerant(self.data) if self.skip_bad else self.data
        images = {image.id: image for image in self.data.images}
        own = {}
        for loader in eval_loaders(source, self.transform, self.batch_size, self.workers, self.world):
            for pixels, ids, sizes, scales, valid in loader.epoch():
                for number, found in zip(ids[valid].tolist(), self.detector(pixels, sizes, scales, valid)):
                    own[number] = self.results_of(images[number], found)
        bad = sorted(source.bad) if self.skip_bad else []
        everything, all_bad = {}, set()
        for part in gather_bytes(json.dumps([list(own.items()), bad]).encode(), self.world):
            found, bad = json.loads(part)
            everything.update(found)
            all_bad.update(bad)
        if set(everything) != set(images):
            raise RuntimeError(f"validation saw {len(everything)} images, but there are {len(images)}.")
        return [result for number in images if number not in all_bad for result in everything[number]], all_bad

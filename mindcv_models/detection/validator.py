"""Average precision of a detector on a data set, each image once whatever the number of devices."""

from typing import Any, Dict, Iterator, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ..data.images import UnreadableImageError
from ..data.loader import Loader
from ..data.order import ShareOrder
from ..distributed import ONE_DEVICE, World, sum_over_ranks
from ..evaluation import Result
from .anchors import retinanet_anchors
from .coco import CocoSet, Raw
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
        logits, deltas = (output.astype(ms.float32).asnumpy() for output in self.network(Tensor.from_numpy(images)))
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

    columns: Tuple[str, ...] = tuple(f"box_{name}" for name in NAMES)

    def __init__(self, network: nn.Cell, data: CocoSet, transform: EvalTransform, batch_size: int, workers: int = 1,
                 limits: Limits = LIMITS, world: World = ONE_DEVICE, skip_bad: bool = False):  # fmt: skip
        self.detector = Detector(network, limits)
        self.data, self.transform = data, transform
        self.batch_size, self.workers, self.world = batch_size, workers, world
        self.skip_bad = skip_bad
        self.truth = GroundTruth(data)

    def __call__(self) -> Result:
        evaluation, _ = self.run()
        values = dict(zip(self.columns, evaluation.values.values()))
        ap, ap50 = values["box_ap"], values["box_ap50"]
        text = f"box AP {100 * ap:.2f} %, AP50 {100 * ap50:.2f} % on {len(self.data)} images"
        return Result(values, ap, len(self.data), ap == 0, text)

    def run(self) -> Tuple[Evaluation, List[Dict[str, Any]]]:
        """The evaluation of the network's current weights, and its results in COCO's format, on every rank."""
        was_training = self.detector.network.training
        self.detector.network.set_train(False)
        results, bad = self._detect()
        self.detector.network.set_train(was_training)
        truth = self.truth
        if bad:
            truth = GroundTruth(self.data.chosen([k for k, i in enumerate(self.data.images) if i.id not in bad]))
        return truth.evaluate(results), results

    def _detect(self):
        source = Tolerant(self.data) if self.skip_bad else self.data
        found = {}
        for loader in eval_loaders(source, self.transform, self.batch_size, self.workers, self.world):
            for images, ids, sizes, scales, valid in loader.epoch():
                found.update(zip(ids[valid].tolist(), self.detector(images, sizes, scales, valid)))
        bad = set(source.bad) if self.skip_bad else set()
        found, bad = self._gather(found, bad)
        results = []
        for image in self.data.images:
            if image.id in found and image.id not in bad:
                results += to_results(image.id, found[image.id], self.data.categories)
        return results, bad

    def _gather(self, found: Dict[int, Detections], bad: set) -> Tuple[Dict[int, Detections], set]:
        """What all ranks found: each fills its own rows of one array, and the sum has them all."""
        if self.world.size == 1:
            return found, bad
        rows = np.zeros((len(self.data), 1 + 6 * self.detector.limits.per_image))
        for row, image in zip(rows, self.data.images):
            if image.id in found:
                own = found[image.id]
                values = np.concatenate([own.boxes, own.scores[:, None], own.labels[:, None]], 1)
                row[0] = len(values) + 1 + (image.id in bad) * 10_000
                row[1 : 1 + values.size] = values.reshape(-1)
        rows = sum_over_ranks(rows.reshape(-1), self.world).reshape(rows.shape)
        if (rows[:, 0] == 0).any():
            raise RuntimeError(f"validation saw {(rows[:, 0] > 0).sum()} images, but there are {len(rows)}.")
        everything, all_bad = {}, set()
        for row, image in zip(rows, self.data.images):
            count = int(row[0]) - 1
            if count >= 10_000:
                all_bad.add(image.id)
                continue
            values = row[1 : 1 + 6 * count].reshape(count, 6)
            everything[image.id] = Detections(
                values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), values[:, 5].astype(int)
            )
        return everything, all_bad

"""Top-1, top-5 and loss over a data set of any size, on any number of devices."""

import math
from dataclasses import dataclass
from typing import Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..distributed import ONE_DEVICE, World, sum_over_ranks
from ..errors import InputError
from ..evaluation import Result
from .eval_loader import batches, create_eval_loader
from .objective import first_of
from .options import ImageFolder

__all__ = ["ClassificationValidator", "Evaluator", "Metrics", "at_chance", "pad_rows"]


@dataclass(frozen=True)
class Metrics:
    """Shares of images, 0 to 1, whose label is the first or among the first ``k`` guesses; mean cross entropy."""

    top1: float
    topk: float
    k: int
    loss: float
    images: int

    def __str__(self):
        shares = f"top-1 {100 * self.top1:.2f} %, top-{self.k} {100 * self.topk:.2f} %"
        return f"{shares}, loss {self.loss:.4f} on {self.images} images"


class _BatchSums(nn.Cell):
    """Cross entropy, top-1 hits and top-k hits, summed over the rows of a batch that are ``valid``."""

    def __init__(self, network, k):
        super().__init__(auto_prefix=False)
        self.network = network
        self.k = k

    def construct(self, images, labels, valid):
        logits = first_of(self.network(images)).astype(ms.float32)
        loss = ops.cross_entropy(logits, labels, reduction="none")  # (B,)
        _, guesses = ops.topk(logits, self.k)  # (B, k)
        hits = ops.equal(guesses, labels.expand_dims(1)).astype(ms.float32)  # (B, k)
        # A masked row's loss may be anything, so it is selected away rather than multiplied by zero.
        loss = ops.select(valid, loss, ops.zeros_like(loss))
        hits = hits * valid.astype(ms.float32).expand_dims(1)
        return ops.stack((loss.sum(), hits[:, 0].sum(), hits.sum()))


class ClassificationValidator:
    """Validates a classifier on the validation split of the options.

    Attributes:
        columns: see :class:`mindcv_models.evaluation.Validator`.
    """

    def __init__(self, network: nn.Cell, options: ImageFolder, world: World = ONE_DEVICE):
        self.options = options
        self.loader, self.images = create_eval_loader(options, world.rank, world.size)
        self.evaluator = Evaluator(network, options.num_classes, options.batch_size, world)
        self.columns: Tuple[str, ...] = ("val_loss", "top1", f"top{self.evaluator.k}")

    def metrics(self) -> Metrics:
        """The metrics of the network's current weights."""
        return self.evaluator.run(self.loader, self.images, self.options.skip_bad_images)

    def __call__(self) -> Result:
        metrics = self.metrics()
        values = dict(zip(self.columns, (metrics.loss, metrics.top1, metrics.topk)))
        chance = at_chance(metrics, self.options.num_classes)
        return Result(values, metrics.top1, metrics.images, chance, str(metrics))


def at_chance(metrics: Metrics, classes: int) -> bool:
    """Whether guessing does as well: the loss at least 0.99 ln(classes), top-1 within 3 deviations of 1 / classes."""
    chance = 1 / classes
    deviation = math.sqrt(chance * (1 - chance) / metrics.images)
    return metrics.loss >= 0.99 * math.log(classes) and metrics.top1 <= chance + 3 * deviation


class Evaluator:
    """Evaluates one network; its graph is compiled once, the short last batch being padded.

    Args:
        network: images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        batch_size: rows that a batch is padded to.
    """

    def __init__(self, network: nn.Cell, num_classes: int, batch_size: int, world: World = ONE_DEVICE):
        self.network = network
        self.batch_size = batch_size
        self.world = world
        self.k = min(5, num_classes)
        self.sums = _BatchSums(network, self.k)

    def run(self, loader, expected_images: int, skip_bad_images: bool = False) -> Metrics:
        """Metrics over this rank's ``loader`` (None if it has no share) and every other rank's.

        Raises:
            InputError: at an image that cannot be decoded, unless those are skipped, and if none can.
            RuntimeError: the ranks together did not see ``expected_images``, and none were to be skipped.
        """
        was_training = self.network.training
        self.network.set_train(False)
        totals = np.zeros(4)
        if loader is not None:
            for images, labels in batches(loader, "skip" if skip_bad_images else "raise"):
                totals += self._batch(images, labels)
        self.network.set_train(was_training)
        loss, top1, topk, images = sum_over_ranks(totals, self.world)
        if images == 0:
            raise InputError("no image of the validation split can be decoded: check data_dir.")
        if images != expected_images and not skip_bad_images:
            raise RuntimeError(f"validation saw {images:.0f} images, but there are {expected_images}.")
        return Metrics(top1 / images, topk / images, self.k, loss / images, int(images))

    def _batch(self, images, labels):
        count = images.shape[0]
        images, labels = pad_rows(images, self.batch_size), pad_rows(labels, self.batch_size)
        valid = Tensor(np.arange(self.batch_size) < count)
        return np.append(self.sums(images, labels, valid).asnumpy().astype(np.float64), count)


def pad_rows(batch: Tensor, rows: int) -> Tensor:
    """``batch`` with zeros after its last row, so that it has ``rows`` of them."""
    missing = rows - batch.shape[0]
    if not missing:
        return batch
    array = batch.asnumpy()
    return Tensor(np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]))

"""Top-1, top-5 and loss over a data set of any size, on any number of devices."""

import math
from dataclasses import dataclass
from typing import Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..data.loader import Loader
from ..distributed import ONE_DEVICE, World, sum_over_ranks
from ..errors import InputError
from ..evaluation import Result
from ..graph_cache import call_cached
from .loader import create_eval_loader
from .objective import first_of
from .options import ImageFolder

__all__ = ["ClassificationValidator", "Evaluator", "Metrics", "at_chance"]


@dataclass(frozen=True)
class Metrics:
    """Shares of images, 0 to 1, whose label is the first or among the first ``k`` predictions; mean cross entropy."""

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
        _, predictions = ops.topk(logits, self.k)  # (B, k)
        hits = ops.equal(predictions, labels.expand_dims(1)).astype(ms.float32)  # (B, k)
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
        self.loader = create_eval_loader(options, world.rank, world.size)
        self.evaluator = Evaluator(network, options.num_classes, world)
        self.columns: Tuple[str, ...] = ("val_loss", "top1", f"top{self.evaluator.k}")

    def metrics(self) -> Metrics:
        """The metrics of the network's current weights."""
        return self.evaluator.run(self.loader)

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
    """Evaluates one network; its graph is compiled once, the loader's batches being of one shape.

    Args:
        network: images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
    """

    def __init__(self, network: nn.Cell, num_classes: int, world: World = ONE_DEVICE):
        self.network = network
        self.world = world
        self.k = min(5, num_classes)
        self.sums = _BatchSums(network, self.k)

    def run(self, loader: Loader) -> Metrics:
        """Metrics over this rank's ``loader`` and every other rank's, which share the images out.

        Raises:
            InputError: at an image that cannot be decoded, unless the loader passes over it, and if none can.
            RuntimeError: the ranks together did not see each image once.
        """
        was_training = self.network.training
        self.network.set_train(False)
        totals = np.zeros(5)
        for images, labels, decoded, valid in loader.epoch():
            counted = decoded & valid
            batch = Tensor(images), Tensor(labels), Tensor(counted)
            sums = call_cached("graph of the validation", self.sums, *batch).asnumpy()
            totals += [*sums.astype(np.float64), counted.sum(), valid.sum()]
        self.network.set_train(was_training)
        loss, top1, topk, images, seen = sum_over_ranks(totals, self.world)
        if seen != loader.order.size:
            raise RuntimeError(f"validation saw {seen:.0f} images, but there are {loader.order.size}.")
        if images == 0:
            raise InputError("no image of the validation split can be decoded: check data_dir.")
        return Metrics(top1 / images, topk / images, self.k, loss / images, int(images))

"""What a network says of each image of a list: one row an image, on any number of devices."""

from dataclasses import dataclass
from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from scipy.special import log_softmax, logsumexp

from ..data.loader import Loader, threads
from ..data.order import ShareOrder
from ..distributed import ONE_DEVICE, World
from ..errors import NotFiniteError
from ..graph_cache import call_cached
from .images import ImageSet
from .loader import EvalSample
from .transforms import CENTRE, EvalTransform, View
from .validator import Metrics

__all__ = ["VIEWS", "Predictions", "Predictor", "image_loader"]


_CROPS = [View(), *(View((top, left)) for top in (0, 1) for left in (0, 1))]
# Test-time augmentation: the views whose probabilities are averaged.
VIEWS = {
    "none": _CROPS[:1],
    "flip": [View(), View(mirrored=True)],
    "five_crop": _CROPS,
    "ten_crop": [View(view.crop, mirrored) for mirrored in (False, True) for view in _CROPS],
}


@dataclass(frozen=True)
class Predictions:
    """Logits ``(N, K)``, labels ``(N,)`` and the paths of N images."""

    logits: np.ndarray
    labels: np.ndarray
    paths: List[str]

    def metrics(self) -> Metrics:
        """Top-1, top-k and cross entropy."""
        own = self.logits[np.arange(len(self.labels)), self.labels]  # (N,)
        k = min(5, self.logits.shape[1])
        hits = np.argsort(-self.logits, axis=1, kind="stable")[:, :k] == self.labels[:, None]  # (N, k)
        loss = logsumexp(self.logits.astype(np.float64), axis=1) - own
        return Metrics(float(hits[:, 0].mean()), float(hits.any(1).mean()), k, float(loss.mean()), len(self.labels))


class _Logits(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        logits = self.network(images)
        if isinstance(logits, tuple):
            logits = logits[0]
        return logits.astype(ms.float32)


class Predictor:
    """Runs a network over image files; its graph is compiled once, short batches being padded.

    Args:
        network: images ``(B, 3, H, W)`` to logits ``(B, classes)``.
        transform: what an image goes through; the same as in validation.
        views: the views of an image whose probabilities are averaged.
        upright: turn images as their EXIF orientation says.
    """

    def __init__(self, network: nn.Cell, classes: int, transform: EvalTransform, batch_size: int, workers: int = 1,
                 views: Sequence[View] = VIEWS["none"], upright: bool = True, world: World = ONE_DEVICE):  # fmt: skip
        self.network = network
        self.classes = classes
        self.transform = transform
        self.batch_size = batch_size
        self.workers = threads(workers)
        self.views = views
        self.upright = upright
        self.world = world
        self.logits = _Logits(network)

    def run(self, paths: Sequence[str]) -> Tuple[np.ndarray, Dict[int, str]]:
        """Logits ``(len(paths), classes)`` in the order of ``paths``, on every rank, and why images were not decoded.

        The logits of an image that could not be decoded mean nothing. Of several views they are the logarithms of the
        averaged probabilities.

        Raises:
            NotFiniteError: an output is not finite.
        """
        was_training = self.network.training
        self.network.set_train(False)
        views = [self._view(paths, view) for view in self.views]
        self.network.set_train(was_training)
        logits, bad = views[0]
        if len(views) > 1:
            logs = [log_softmax(rows.astype(np.float64), axis=1) for rows, _ in views]
            logits = (logsumexp(logs, axis=0) - np.log(len(views))).astype(np.float32)
        logits = _over_ranks(logits, self.world)
        if not np.isfinite(logits).all():
            raise NotFiniteError("the network's outputs are not finite: use another checkpoint or amp_level O0.")
        return logits, self._bad_over_ranks(bad, len(paths))

    def _view(self, paths, view):
        """This rank's rows, the others being zero, and its bad images."""
        rows = np.zeros((len(paths), self.classes), np.float32)
        bad: Dict[int, str] = {}
        loader = image_loader(paths, self.transform, self.batch_size, self.workers, view, self.upright, bad, self.world)
        for images, numbers, _, valid in loader.epoch():
            logits = call_cached("graph of the network", self.logits, Tensor(images))
            rows[numbers[valid]] = logits.asnumpy()[valid]
        return rows, bad

    def _bad_over_ranks(self, bad, count):
        if self.world.size == 1:
            return bad
        flags = np.zeros((count, 1), np.float32)
        flags[list(bad)] = 1
        flags = _over_ranks(flags, self.world)[:, 0]
        return {int(number): bad.get(int(number), "on another rank") for number in np.flatnonzero(flags)}


def image_loader(paths: Sequence[str], transform: EvalTransform, batch_size: int, workers: int = 1,
                 view: View = CENTRE, upright: bool = True, bad: Optional[Dict[int, str]] = None,
                 world: World = ONE_DEVICE) -> Loader:  # fmt: skip
    """This rank's batches ``(images (B, 3, H, W), numbers (B,), decoded (B,), valid (B,))``, the last one filled up.

    Args:
        bad: takes the numbers of images that cannot be decoded, which are black, and why; None raises at them.
    """
    return Loader(
        ImageSet(paths, np.arange(len(paths), dtype=np.int32)),
        ShareOrder(len(paths), world.rank, world.size),
        EvalSample(partial(transform, view=view), upright, bad, (3, *transform.size)),
        batch_size,
        last="pad",
        workers=workers,
    )


def _over_ranks(rows: np.ndarray, world: World, chunk: int = 4096) -> np.ndarray:
    """The sum over ranks of ``rows``, of which each rank has its own and zeros: exact, as x + 0 is x."""
    if world.size == 1:
        return rows
    reduce = ops.AllReduce(ops.ReduceOp.SUM)
    parts = [reduce(Tensor(rows[start : start + chunk])).asnumpy() for start in range(0, len(rows), chunk)]
    return np.concatenate(parts)

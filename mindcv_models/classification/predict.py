"""What a network says of each image of a list: one row an image, on any number of devices."""

import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.dataset import vision
from PIL import Image, ImageOps
from scipy.special import log_softmax, logsumexp, softmax

from ..distributed import ONE_DEVICE, World
from ..errors import NotFiniteError
from .transforms import EvalTransform
from .validator import Metrics, pad_rows

__all__ = ["VIEWS", "Predictions", "Predictor", "View", "decode_image", "image_batches",
           "probabilities"]  # fmt: skip


@dataclass(frozen=True)
class View:
    """One look at an image: where it is cropped, ``"centre"`` or (top, left) with 0 or 1 for each end, and mirrored."""

    crop: Tuple[int, int] = ()
    mirrored: bool = False


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


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax over the last axis."""
    return softmax(logits.astype(np.float64), axis=-1)


def decode_image(path: str, upright: bool = False) -> np.ndarray:
    """RGB pixels ``(H, W, 3)`` in 8 bits of an image in any of Pillow's modes; transparency is dropped.

    Args:
        upright: turn the image as its EXIF orientation says. Published accuracies are measured without.

    Raises:
        OSError, SyntaxError, ValueError and others: the file cannot be decoded, or has floating-point pixels.
    """
    with Image.open(path) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("pixels are fractions of no known range; save it with 8 or 16 bits")
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        if image.mode == "P":  # whose transparency may have a value for each colour
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))


class _Files:
    """A source of ``(pixels (H, W, 3), number)``. An image that cannot be decoded is black, and noted in ``bad``."""

    def __init__(self, paths: Sequence[str], numbers: Sequence[int], upright: bool, bad: Dict[int, str]):
        self.paths, self.numbers, self.upright, self.bad = paths, numbers, upright, bad

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        try:
            pixels = decode_image(self.paths[number], self.upright)
        except Exception as error:  # whatever a broken file makes Pillow's many readers raise
            self.bad[number] = str(error) or type(error).__name__
            pixels = np.zeros((32, 32, 3), np.uint8)
        return pixels, np.int32(number)


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
                 views: Sequence[View] = VIEWS["none"], upright: bool = False, world: World = ONE_DEVICE):  # fmt: skip
        self.network = network
        self.classes = classes
        self.transform = transform
        self.batch_size = batch_size
        self.workers = min(workers, os.cpu_count() or 1)
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
        mine = range(self.world.rank, len(paths), self.world.size)
        for images, numbers in image_batches(
            paths, mine, self.transform, self.batch_size, self.workers, view, self.upright, bad
        ):
            rows[numbers] = self.logits(pad_rows(images, self.batch_size)).asnumpy()[: len(numbers)]
        return rows, bad

    def _bad_over_ranks(self, bad, count):
        if self.world.size == 1:
            return bad
        flags = np.zeros((count, 1), np.float32)
        flags[list(bad)] = 1
        flags = _over_ranks(flags, self.world)[:, 0]
        return {int(number): bad.get(int(number), "on another rank") for number in np.flatnonzero(flags)}


def image_batches(paths: Sequence[str], numbers: Sequence[int], transform: EvalTransform, batch_size: int,
                  workers: int = 1, view: View = VIEWS["none"][0], upright: bool = False,
                  bad: Optional[Dict[int, str]] = None) -> Iterator[Tuple[Tensor, np.ndarray]]:  # fmt: skip
    """Batches of the images with these numbers among ``paths``: ``(B, 3, H, W)``, and their numbers ``(B,)``.

    Args:
        bad: takes the numbers of images that cannot be decoded, which are black, and why.
    """
    files = _Files(paths, numbers, upright, {} if bad is None else bad)
    if not len(files):
        return
    dataset = ds.GeneratorDataset(
        files, ["image", "number"], shuffle=False, num_parallel_workers=workers, python_multiprocessing=False
    )
    dataset = dataset.map(view_transforms(transform, view), "image", num_parallel_workers=workers)
    for images, batch_numbers in dataset.batch(batch_size).create_tuple_iterator(num_epochs=1):
        yield images, batch_numbers.asnumpy()


def view_transforms(transform: EvalTransform, view: View) -> List:
    """The validation transforms without decoding, cropped and mirrored as ``view`` says."""
    crop = _corner(transform.size, *view.crop) if view.crop else transform.crop
    mirror = [vision.HorizontalFlip()] if view.mirrored else []
    return [transform.resize, crop, *mirror, *transform.normalise()]


def _corner(size, bottom, right):
    def crop(image):
        top, left = bottom * (image.shape[0] - size[0]), right * (image.shape[1] - size[1])
        return image[top : top + size[0], left : left + size[1]]

    return crop


def _over_ranks(rows: np.ndarray, world: World, chunk: int = 4096) -> np.ndarray:
    """The sum over ranks of ``rows``, of which each rank has its own and zeros: exact, as x + 0 is x."""
    if world.size == 1:
        return rows
    reduce = ops.AllReduce(ops.ReduceOp.SUM)
    parts = [reduce(Tensor(rows[start : start + chunk])).asnumpy() for start in range(0, len(rows), chunk)]
    return np.concatenate(parts)

"""From pictures of any size to label maps: the whole picture at once or window by window, once or in several views."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from mindspore import Tensor, nn

from ..data.geometry import normalise, pad_bottom_right, resize_image
from ..graph_cache import call_cached
from .transforms import target_size

__all__ = ["Inference", "InferenceSettings", "windows"]


@dataclass(frozen=True)
class InferenceSettings:
    """How a picture is shown to the network.

    Attributes:
        scale: what a picture is resized to fit into, its ratio kept: long side and short side; None leaves it as it is.
        mean, std: of the channels, 0 to 255.
        window: height and width of the windows that slide over the picture; None shows it whole.
        stride: steps of the windows, down and to the right.
        divisor: whole pictures are padded to multiples of this, so that fewer sizes have to be compiled.
        ratios: factors on ``scale`` of the views, whose probabilities are averaged.
        flip: with each view also its mirror image.
    """

    scale: Optional[Tuple[int, int]]
    mean: Sequence[float]
    std: Sequence[float]
    window: Optional[Tuple[int, int]] = None
    stride: Optional[Tuple[int, int]] = None
    divisor: int = 1
    ratios: Tuple[float, ...] = (1.0,)
    flip: bool = False


class View(NamedTuple):
    """A picture as the network sees it, or a part of it at ``top`` and ``left``.

    Attributes:
        pixels: ``(3, h, w)`` float32, padded.
        size: height and width of the whole resized picture.
    """

    pixels: np.ndarray
    size: Tuple[int, int]
    flipped: bool
    top: int = 0
    left: int = 0


class Inference:
    """Label maps by one network.

    Args:
        network: images ``(B, 3, h, w)`` to logits ``(B, classes, ceil(h / 4), ceil(w / 4))``.
        batch_size: most views of one size that go through the network together.
        workers: threads that prepare pictures and enlarge logits.
    """

    def __init__(self, network: nn.Cell, settings: InferenceSettings, batch_size: int = 1, workers: int = 1):
        self.network = network
        self.settings = settings
        self.batch_size = batch_size
        self.workers = workers
        self.rows: Dict[Tuple[int, ...], int] = {}  # batch sizes that are compiled, by the shape of a view

    def __call__(self, pictures: List[np.ndarray]) -> List[np.ndarray]:
        """Pictures ``(H, W, 3)`` uint8 RGB to label maps ``(H, W)`` int16: classes from 0."""
        was_training = self.network.training
        self.network.set_train(False)
        with ThreadPoolExecutor(self.workers, "inference") as pool:
            views = list(pool.map(self.views, pictures))
            logits = self.run([view.pixels for own in views for view in own])
            own_logits = iter(logits)
            parts = [[next(own_logits) for _ in own] for own in views]
            labels = list(pool.map(self.label_map, views, parts, [picture.shape[:2] for picture in pictures]))
        self.network.set_train(was_training)
        return labels

    def views(self, picture: np.ndarray) -> List[View]:
        """What the network sees of a picture."""
        found = []
        for ratio in self.settings.ratios:
            height, width = target_size(*picture.shape[:2], self.settings.scale, ratio)
            whole = normalise(resize_image(picture, height, width), self.settings.mean, self.settings.std)
            for flipped in (False, True) if self.settings.flip else (False,):
                found += self.parts(np.ascontiguousarray(whole[..., ::-1]) if flipped else whole, flipped)
        return found

    def parts(self, whole: np.ndarray, flipped: bool) -> List[View]:
        """The whole picture ``(3, h, w)``, padded, or its windows."""
        size, divisor = whole.shape[1:], self.settings.divisor
        if self.settings.window is None:
            height, width = (-(-side // divisor) * divisor for side in size)
            return [View(pad_bottom_right(whole, height, width), size, flipped)]
        h, w = self.settings.window
        return [
            View(pad_bottom_right(whole[:, top : top + h, left : left + w], h, w), size, flipped, top, left)
            for top, left in windows(size, self.settings.window, self.settings.stride)
        ]

    def run(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        """The network's logits of each array, computed in batches of equal shapes."""
        places = defaultdict(list)
        for place, array in enumerate(arrays):
            places[array.shape].append(place)
        results = [None] * len(arrays)
        for shape, members in places.items():
            for begin in range(0, len(members), self.batch_size):
                chunk = members[begin : begin + self.batch_size]
                rows = self.rows[shape] = max(self.rows.get(shape, 0), len(chunk))
                batch = np.zeros((rows, *shape), np.float32)
                for row, place in enumerate(chunk):
                    batch[row] = arrays[place]
                logits = call_cached("graph of the network", self.network, Tensor(batch)).asnumpy().astype(np.float32)
                for row, place in enumerate(chunk):
                    results[place] = logits[row]
        return results

    def label_map(self, views: List[View], logits: List[np.ndarray], size: Tuple[int, int]) -> np.ndarray:
        """The classes of a picture's pixels ``(H, W)`` from the logits ``(classes, h, w)`` of its views."""
        wholes = defaultdict(list)  # the parts of each view of the whole picture
        for view, part in zip(views, logits):
            wholes[view.size, view.flipped].append((view, part))
        if len(wholes) == 1:
            return first_largest(enlarged_planes(next(iter(wholes.values())), size))
        total = sum(softmax(np.stack(list(enlarged_planes(parts, size)))) for parts in wholes.values())
        return total.argmax(0).astype(np.int16)


def windows(size: Tuple[int, int], window: Tuple[int, int], stride: Tuple[int, int]) -> List[Tuple[int, int]]:
    """Top and left of windows that cover a picture; the last ones are moved back inside it."""
    starts = []
    for length, side, step in zip(size, window, stride):
        count = max(length - side + step - 1, 0) // step + 1
        starts.append([max(min(k * step, length - side), 0) for k in range(count)])
    return [(top, left) for top in starts[0] for left in starts[1]]


def enlarged_planes(parts: List[Tuple[View, np.ndarray]], size: Tuple[int, int]):
    """The logits of each class over the original picture, ``(H, W)`` float32, class by class.

    Twice resized, bilinear: to the size that the network saw, where windows are averaged, and to the original ``size``.
    """
    height, width = parts[0][0].size
    counts = coverage(parts) if len(parts) > 1 else None
    for label in range(len(parts[0][1])):
        if counts is None:
            view, logits = parts[0]
            plane = plane_of(logits[label], view)[:height, :width]
        else:
            plane = np.zeros((height, width), np.float32)
            for view, logits in parts:
                add_plane(plane, plane_of(logits[label], view), view)
            plane /= counts
        if parts[0][0].flipped:
            plane = plane[:, ::-1]
        yield resized_plane(np.ascontiguousarray(plane), *size)


def coverage(parts) -> np.ndarray:
    """How many windows see each pixel, ``(h, w)``."""
    counts = np.zeros(parts[0][0].size, np.float32)
    for view, _ in parts:
        add_plane(counts, np.ones(view.pixels.shape[1:], np.float32), view)
    return counts


def add_plane(total, plane, view) -> None:
    target = total[view.top : view.top + plane.shape[0], view.left : view.left + plane.shape[1]]
    target += plane[: target.shape[0], : target.shape[1]]


def plane_of(logits: np.ndarray, view: View) -> np.ndarray:
    return resized_plane(logits, *view.pixels.shape[1:])


def resized_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)


def first_largest(planes) -> np.ndarray:
    """The number of the largest of planes ``(H, W)`` at each pixel, the first of equal ones; int16."""
    best, labels = None, None
    for label, plane in enumerate(planes):
        if best is None:
            best, labels = plane.copy(), np.zeros(plane.shape, np.int16)
            continue
        larger = plane > best
        np.copyto(best, plane, where=larger)
        labels[larger] = label
    return labels


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the first axis, in place."""
    logits -= logits.max(0)
    np.exp(logits, out=logits)
    logits /= logits.sum(0)
    return logits

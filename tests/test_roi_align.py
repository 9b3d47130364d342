"""RoIAlign's two forms against the original's values and gradients, and a plain loop in NumPy; NMS's two forms too."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindcv_models import backend
from mindcv_models.layers import NMS, RoIAlign
from tests.helpers import parity

STRIDES = (4, 8, 16, 32)


@pytest.fixture(params=["loops", "products"])
def form(request):
    """Build cells in one of the two forms; the test needs a compiler for the first."""
    if request.param == "products":
        with backend.portable_form():
            yield request.param
    else:
        assert backend.fuse_elementwise()
        yield request.param


@pytest.fixture(scope="module")
def reference():
    return np.load(parity.DATA / "dense" / "roi_align.npz")


def by_image(rois, images=2):
    """Regions (image, box) as boxes ``(B, R, 4)`` with rows of zeros where an image has fewer, and where each went."""
    counts = [int((rois[:, 0] == i).sum()) for i in range(images)]
    boxes = np.zeros((images, max(counts), 4), np.float32)
    places = []
    for image, *box in rois:
        row = sum(1 for place in places if place[0] == int(image))
        boxes[int(image), row] = box
        places.append((int(image), row))
    return boxes, tuple(np.array(places).T)


class Pooled(nn.Cell):
    """Sum of the features of both sizes, weighted."""

    def __init__(self):
        super().__init__()
        self.small, self.large = RoIAlign(7), RoIAlign(14)

    def construct(self, a, b, c, d, boxes, weights7, weights14):
        maps = (a, b, c, d)
        seven, fourteen = self.small(maps, boxes), self.large(maps, boxes)
        return (seven * weights7).sum() + (fourteen * weights14).sum(), seven, fourteen


@pytest.fixture
def outcome(form, reference):
    """Features of both sizes in the reference's order, and gradients of the maps."""
    maps = [ms.Tensor(parity.images(2, 128 // stride, 160 // stride)) for stride in STRIDES]
    boxes, places = by_image(reference["rois"])
    weights = []
    for size in (7, 14):
        weights.append(np.zeros((*boxes.shape[:2], 3, size, size), np.float32))
        weights[-1][places] = reference[f"g{size}"]
    step = ms.value_and_grad(Pooled(), (0, 1, 2, 3), has_aux=True)
    (_, *pooled), gradients = step(*maps, ms.Tensor(boxes), *map(ms.Tensor, weights))
    return [each.asnumpy()[places] for each in pooled], [each.asnumpy() for each in gradients]


def test_features_and_gradients_are_the_originals(outcome, reference):
    pooled, gradients = outcome
    np.testing.assert_allclose(pooled[0], reference["out7"], rtol=0, atol=3e-5)
    np.testing.assert_allclose(pooled[1], reference["out14"], rtol=0, atol=3e-5)
    for stride, gradient in zip(STRIDES, gradients):
        np.testing.assert_allclose(gradient, reference[f"grad_{stride}"], rtol=0, atol=6e-5)


def test_levels_are_the_originals(reference):
    levels = RoIAlign(7).levels(ms.Tensor(reference["rois"][None, :, 1:]))
    np.testing.assert_array_equal(levels.asnumpy()[0], reference["level"])


@pytest.mark.parametrize(("side", "level"), [(0, 0), (111.99, 0), (112, 1), (224, 2), (448, 3), (5000, 3)])
def test_the_level_grows_with_the_root_of_the_area(side, level):
    box = np.array([[[3, 5, 3 + side / 4, 5 + 4 * side]]], np.float32)
    assert RoIAlign(7).levels(ms.Tensor(box)).asnumpy().item() == level


def sampled(plane, y, x):
    """The bilinear value of a map at a point, in float64; 0 from one cell outside on."""
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0.0), h - 1), min(max(x, 0.0), w - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    upper = plane[top, left] * (left + 1 - x) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (left + 1 - x) + plane[bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def pooled_plainly(plane, box, size, stride):
    """One region's features, sample by sample."""
    x1, y1, x2, y2 = (float(v) / stride for v in box)
    out = np.zeros((size, size))
    bins = ((y2 - y1) / size, (x2 - x1) / size)
    if min(bins) <= 0:
        return out
    counts = [int(np.ceil(b)) for b in bins]
    for i in range(size):
        for j in range(size):
            ys = [y1 - 0.5 + (i + (s + 0.5) / counts[0]) * bins[0] for s in range(counts[0])]
            xs = [x1 - 0.5 + (j + (s + 0.5) / counts[1]) * bins[1] for s in range(counts[1])]
            out[i, j] = np.mean([sampled(plane, y, x) for y in ys for x in xs])
    return out


class _Graph(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def construct(self, x, boxes):
        return self.network((x,), boxes)


BOXES = {
    "whole map": (0, 0, 76, 52),
    "long and thin": (1.3, 10, 75.2, 10.4),
    "within a cell": (9.1, 9.2, 9.4, 9.3),
    "beyond all sides": (-30, -20, 110, 90),
    "outside": (200, 200, 240, 240),
    "upside down": (20, 30, 10, 20),
    "no width": (20, 5, 20, 40),
    "cells exactly": (8, 8, 36, 36),
    "last cells": (70, 47, 76, 52),
}


def test_every_shape_of_box_is_pooled_as_sample_by_sample(form):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 13, 19)).astype(np.float32)
    boxes = np.concatenate([list(BOXES.values()), rng.uniform(-10, 80, (20, 4))]).astype(np.float32)
    pooled = _Graph(RoIAlign(5, (4,)))(ms.Tensor(x), ms.Tensor(boxes[None])).asnumpy()[0]
    for box, features in zip(boxes, pooled):
        for plane, found in zip(x[0], features):
            np.testing.assert_allclose(found, pooled_plainly(plane, box, 5, 4), rtol=0, atol=2e-5)


def test_gradients_are_the_finite_differences(form):
    """The features are linear in the map, so a difference is exact but for rounding."""
    rng = np.random.default_rng(1)
    x, step = rng.standard_normal((2, 1, 2, 9, 11)).astype(np.float32)
    boxes = ms.Tensor(np.array([[[2, 3, 31, 29], [0, 0, 44, 36], [40, 30, 50, 40]]], np.float32))
    network = _Graph(RoIAlign(3, (4,)))
    weights = ms.Tensor(rng.standard_normal((1, 3, 2, 3, 3)).astype(np.float32))

    def total(x):
        return (network(x, boxes) * weights).sum()

    gradient = ms.grad(total)(ms.Tensor(x)).asnumpy()
    difference = total(ms.Tensor(x + step)).asnumpy() - total(ms.Tensor(x - step)).asnumpy()
    np.testing.assert_allclose((gradient * step).sum(), difference / 2, rtol=1e-4)
    assert np.abs(gradient).max() > 0.1


def suppressed(boxes, threshold):
    kept = []
    for i, box in enumerate(boxes.astype(np.float64)):
        for j in kept:
            other = boxes[j].astype(np.float64)
            common = np.prod(np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0))
            union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - common
            if common > threshold * union:
                break
        else:
            kept.append(i)
    return kept


def test_nms_keeps_what_a_plain_loop_keeps(form):
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 60, (2, 120, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(5, 40, (2, 120, 2))), 2).astype(np.float32)
    boxes[0, 7] = boxes[0, 5] = [10, 10, 10, 30]  # no area: neither drops the other
    boxes[1, 9] = [0, 0, 10, 10]
    boxes[1, 0] = [0, 0, 10, 5]  # exactly half of it: stays
    network = NMS(0.5)
    kept = network(ms.Tensor(boxes)).asnumpy()
    for image in range(2):
        assert list(np.flatnonzero(kept[image])) == suppressed(boxes[image], 0.5)
    assert kept[0, 5] == kept[0, 7] == kept[1, 9] == 1
    assert 20 < kept.sum() < 200


def test_no_gradient_flows_into_boxes(form):
    network = _Graph(RoIAlign(3, (4,)))
    x = ms.Tensor(parity.images(1, 8, 8))

    def total(boxes):
        return ops.sum(network(x, boxes)) + ops.sum(NMS(0.5)(boxes))

    gradient = ms.grad(total)(ms.Tensor(np.array([[[1, 2, 20, 30]]], np.float32)))
    assert not gradient.asnumpy().any()

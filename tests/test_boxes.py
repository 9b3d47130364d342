"""Boxes, anchors and their assignment on examples small enough to work out by hand."""

import numpy as np
import pytest

from mindcv_models.detection import anchors, assign, boxes
from mindcv_models.detection.predict import Limits, detect


def array(*rows):
    return np.array(rows, np.float32)


def test_overlaps():
    first = array([0, 0, 4, 4], [2, 2, 2, 6])
    second = array([0, 0, 4, 4], [2, 0, 6, 4], [4, 4, 8, 8])
    np.testing.assert_allclose(boxes.iou(first, second), [[1, 8 / 24, 0], [0, 0, 0]], rtol=1e-6)
    assert boxes.iou(first, second[:0]).shape == (2, 0)


@pytest.mark.parametrize("std", [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2)])
def test_deltas_lead_to_the_box(std):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (2, 20, 2)).astype(np.float32)
    own, goal = (np.concatenate([c, c + rng.uniform(5, 40, c.shape).astype(np.float32)], 1) for c in corners)
    deltas = boxes.encode(own, goal, std)
    np.testing.assert_allclose(boxes.decode(own, deltas, None, std), goal, rtol=0, atol=1e-4)
    clipped = boxes.decode(own, deltas, (30, 40), std)
    np.testing.assert_allclose(clipped, np.clip(goal, 0, [40, 30, 40, 30]), rtol=0, atol=1e-4)


def test_deltas_by_hand_and_their_limit():
    own, goal = array([0, 0, 10, 20]), array([5, 10, 25, 20])
    np.testing.assert_allclose(boxes.encode(own, goal), [[1, 0.25, np.log(2), np.log(0.5)]], rtol=1e-6)
    wide = boxes.decode(array([0, 0, 16, 16]), array([0, 0, 9, -9]))
    np.testing.assert_allclose(wide, [[8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128]], rtol=1e-5)


def test_suppression_keeps_groups_apart_and_the_threshold_itself():
    # The second overlaps the first by 1/2 exactly, the third by more, and the fourth is of another group.
    given = array([0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 3], [0, 0, 4, 4])
    scores, groups = array(0.9, 0.8, 0.95, 0.1), np.array([0, 0, 1, 1])
    assert boxes.nms(given, scores, groups, 0.5).tolist() == [2, 0, 1]
    assert boxes.nms(given, scores, None, 0.5).tolist() == [2]
    assert boxes.nms(given, scores, groups, 0.49).tolist() == [2, 0]
    assert boxes.nms(given, scores, groups, 0.5, limit=2).tolist() == [2, 0]
    assert boxes.nms(given[:0], scores[:0], groups[:0]).tolist() == []


def test_boxes_of_no_area_are_never_suppressed():
    given = array([1, 1, 1, 5], [1, 1, 1, 5])
    assert boxes.nms(given, array(0.5, 0.6)).tolist() == [1, 0]


def test_anchors_of_a_cell():
    some = anchors.Anchors((16,), (1.0, 2.0), (0.25, 1.0))
    np.testing.assert_allclose(
        some.base(16), [[-16, -4, 16, 4], [-32, -8, 32, 8], [-8] * 2 + [8] * 2, [-16] * 2 + [16] * 2]
    )
    every = some.all(((2, 3),))
    assert every.shape == (2 * 3 * 4, 4)
    np.testing.assert_allclose(every[4 * 5], [32 - 16, 16 - 4, 32 + 16, 16 + 4])  # the last cell's first
    assert some.valid(((2, 3),), (16, 33)).reshape(2, 3, 4)[..., 0].tolist() == [[True] * 3, [False] * 3]


def test_sizes_of_levels_are_rounded_up():
    assert anchors.RETINANET.sizes(800, 1344) == ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
    assert anchors.RPN.sizes(128, 160) == ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))


LIMITS = assign.Thresholds(0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [
        ([[0.6], [0.45], [0.2]], [1, -1, 0]),
        ([[0.5, 0.5], [0.1, 0.2], [0.39, 0]], [2, 0, 0]),  # the first of equal ones, then box 2 takes its best
        ([[0.35, 0.0], [0.35, 0.0], [0.0, 0.29]], [1, 1, 0]),  # all equal best ones; too low a best
        ([[0.7, 0.6], [0.2, 0.1]], [2, 0]),  # a later box takes an anchor from a better one
        ([[], []], [0, 0]),
    ],
)
def test_assignment(overlaps, expected):
    assert assign.assign(np.array(overlaps, np.float32), LIMITS).tolist() == expected


def test_targets_of_an_image():
    own = array([0, 0, 10, 10], [0, 0, 10, 8], [0, 5, 10, 15], [50, 50, 60, 60], [0, 0, 10, 10])
    valid = np.array([True, True, True, True, False])
    labels, deltas = assign.retinanet_targets(own, valid, array([0, 0, 10, 10]), np.array([3]), 7)
    assert labels.tolist() == [3, 3, 7, 7, -1]
    np.testing.assert_allclose(deltas[:2], [[0, 0, 0, 0], [0, 0.125, 0, np.log(1.25)]], rtol=1e-6)
    assert not deltas[2:].any()
    labels, _ = assign.retinanet_targets(own, valid, array().reshape(0, 4), np.array([], int), 7)
    assert labels.tolist() == [7, 7, 7, 7, -1]


def test_detections_are_cut_by_level_and_scaled():
    own = array([0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [0, 0, 16, 16])
    logits = array([2, -9], [1, 3], [0, -9], [-9, -9])
    found = detect(logits, np.zeros((4, 4), np.float32), own, (3, 1), (12, 16), (2, 4), Limits(per_level=2))
    assert found.labels.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-3.0, -2, -1])), rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[4, 0, 8, 2], [0, 0, 4, 2], [4, 0, 8, 2]])
    assert len(detect(logits - 9, np.zeros((4, 4), np.float32), own, (3, 1), (12, 16)).boxes) == 0

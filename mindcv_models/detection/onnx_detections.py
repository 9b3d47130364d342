"""Decoding and non-maximum suppression as ONNX operators behind a detector's raw outputs, for ONNX Runtime alone."""

from typing import Any, List

import numpy as np

from .anchors import Anchors
from .boxes import LIMIT
from .predict import Limits

__all__ = ["add_detections"]


class _Builder:
    """Appends operators to an ``onnx.GraphProto``; each call returns the name of its output."""

    def __init__(self, graph):
        self.graph = graph
        self.count = 0

    def constant(self, value, dtype=np.float32) -> str:
        from onnx import numpy_helper

        name = self._name("detections_constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any):
        from onnx import helper

        names = [self._name(f"detections_{kind}") for _ in range(outputs)]
        self.graph.node.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def _name(self, kind):
        self.count += 1
        return f"{kind}_{self.count}"

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        return self("Slice", x, self.integers(start), self.integers(end), self.integers(axis))


def add_detections(model, anchors: Anchors, height: int, width: int, limits: Limits):
    """The ``onnx.ModelProto`` of a detector for images of one size, with the detections as its only output.

    The model must have two outputs, logits ``(B, A, C)`` and deltas ``(B, A, 4)``. Beside the images the new one takes
    ``sizes (B, 2)``: height and width of each without padding, and ``scales (B, 2)``: width and height by those of the
    original; float32 both. It gives ``detections (N, 7)`` float32: the image's place in the batch, x1, y1, x2, y2 in
    pixels of the original, score and class, images in order, and in each the best first.
    """
    from onnx import TensorProto, checker, helper

    graph = model.graph
    add = _Builder(graph)
    logits, deltas = (output.name for output in graph.output)
    scores, boxes = _best_of_levels(add, add("Sigmoid", logits), deltas, anchors, height, width, limits)
    boxes = _scaled(add, boxes)
    rows = _suppressed(add, boxes, scores, limits)
    final = _limited(add, *rows, limits.per_image)
    graph.node.append(helper.make_node("Identity", [final], ["detections"]))
    for name in ("sizes", "scales"):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7]))
    checker.check_model(model)
    return model


def _best_of_levels(add: _Builder, scores, deltas, anchors: Anchors, height, width, limits):
    """Scores ``(B, K, C)`` and boxes ``(B, K, 4)``, clipped to ``sizes``, of the best anchors of every level."""
    sizes = anchors.sizes(height, width)
    every, start = anchors.all(sizes), 0
    kept_scores, kept_boxes = [], []
    for count in anchors.counts(sizes):
        own = slice(start, start + count)
        level = [add.slice(x, 1, own.start, own.stop) for x in (scores, deltas)]
        base = add.constant(every[own][None])
        if count > limits.per_level:
            best = add("ReduceMax", level[0], add.integers(2), keepdims=0)  # (B, A)
            _, places = add("TopK", best, add.integers(limits.per_level), outputs=2, axis=1)
            level = [_gather_rows(add, x, places) for x in level]
            base = add("Gather", add.constant(every[own]), places, axis=0)
        kept_scores.append(level[0])
        kept_boxes.append(_decoded(add, base, level[1]))
        start += count
    return add("Concat", *kept_scores, axis=1), add("Concat", *kept_boxes, axis=1)


def _gather_rows(add: _Builder, x, places):
    """``(B, A, V)`` at ``(B, K)``: ``(B, K, V)``."""
    indices = add("Unsqueeze", places, add.integers(2))
    return add("GatherND", x, indices, batch_dims=1)


def _decoded(add: _Builder, base, deltas, sizes="sizes"):
    """Boxes ``(B, K, 4)`` as :func:`mindcv_models.detection.boxes.decode` makes them, in images of ``sizes (B, 2)``."""
    half = add.constant(0.5)
    low, high = (add.slice(base, 2, k, k + 2) for k in (0, 2))
    sides = add("Sub", high, low)
    moves, stretches = (add.slice(deltas, 2, k, k + 2) for k in (0, 2))
    centres = add("Add", add("Mul", add("Add", low, high), half), add("Mul", moves, sides))
    stretches = add("Clip", stretches, add.constant(-LIMIT), add.constant(LIMIT))
    halves = add("Mul", add("Mul", sides, add("Exp", stretches)), half)
    boxes = add("Concat", add("Sub", centres, halves), add("Add", centres, halves), axis=2)
    turned = add("Gather", sizes, add.integers(1, 0, 1, 0), axis=1)  # width, height, width, height
    limits = add("Unsqueeze", turned, add.integers(1))
    return add("Min", add("Max", boxes, add.constant(0.0)), limits)


def _scaled(add: _Builder, boxes):
    factors = add("Unsqueeze", add("Concat", "scales", "scales", axis=1), add.integers(1))
    return add("Div", boxes, factors)


def _suppressed(add: _Builder, boxes, scores, limits: Limits) -> List[str]:
    """Image, box, score and class of what stays, ``(N, 1)``, ``(N, 4)``, ``(N, 1)`` and ``(N, 1)``."""
    by_class = add("Transpose", scores, perm=[0, 2, 1])  # (B, C, K)
    chosen = add(
        "NonMaxSuppression", boxes, by_class, add.integers(limits.per_image),
        add.constant(limits.nms), add.constant(limits.score),
    )  # fmt: skip
    image, kind, place = (add.slice(chosen, 1, k, k + 1) for k in range(3))
    score = add("GatherND", by_class, chosen)
    box = add("GatherND", boxes, add("Concat", image, place, axis=1))
    columns = [add("Cast", x, to=1) for x in (image, kind)]
    return [columns[0], box, add("Unsqueeze", score, add.integers(1)), columns[1]]


def _limited(add: _Builder, image, box, score, kind, most: int) -> str:
    """Rows by image, then by descending score, at most ``most`` of an image: ``(N, 7)``."""
    rows = add("Concat", image, box, score, kind, axis=1)
    key = add("Sub", score, add("Mul", image, add.constant(2.0)))  # scores are below 2
    count = add("Slice", add("Shape", rows), add.integers(0), add.integers(1))
    _, order = add("TopK", add("Squeeze", key, add.integers(1)), count, outputs=2)
    rows = add("Gather", rows, order, axis=0)
    image = add("Cast", add("Squeeze", add.slice(rows, 1, 0, 1), add.integers(1)), to=7)
    images = add("Slice", add("Shape", "sizes"), add.integers(0), add.integers(1))
    hot = add("OneHot", image, images, add.constant([0.0, 1.0]), axis=1)  # (N, B)
    before = add("CumSum", hot, add.constant(0, np.int64), exclusive=1)
    rank = add("ReduceSum", add("Mul", before, hot), add.integers(1), keepdims=0)  # place within the image
    return add("Compress", rows, add("Less", rank, add.constant(float(most))), axis=0)

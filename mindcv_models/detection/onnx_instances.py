"""Mask R-CNN's regions, second stage, suppression and masks as ONNX operators, for ONNX Runtime alone."""

from typing import Sequence

import numpy as np
from mindspore import nn

from .anchors import RPN, Anchors
from .boxes import STD
from .onnx_detections import _Builder, _decoded, _gather_rows, _limited
from .predict import Limits

__all__ = ["add_instances"]

SCALES = tuple(1 / stride for stride in RPN.strides[:4])  # of the maps that regions are taken from
FINEST = 56.0
REGIONS, OVERLAP = 1000, 0.7  # of the first stage: regions of an image at most, and the IoU from which one falls


def add_instances(model, network: nn.Cell, anchors: Anchors, height: int, width: int, limits: Limits):
    """The ``onnx.ModelProto`` of a Mask R-CNN for images of one size, with final boxes and masks as its outputs.

    The model must have the network's outputs: logits and deltas of each level, then the neck's maps. Beside the images
    the new one takes ``sizes (B, 2)`` and ``scales (B, 2)``, as :func:`onnx_detections.add_detections` says. It gives
    ``detections (N, 7)``, as there, and ``masks (N, 28, 28)``: how sure it is that a part of the box belongs to the
    object, 0 to 1, row by row from the box's upper left corner.

    Args:
        network: whose second stage's weights are written into the model.
    """
    from onnx import TensorProto, checker, helper

    graph = model.graph
    add = _Builder(graph)
    outputs = [output.name for output in graph.output]
    levels = len(anchors.strides)
    logits, deltas, maps = outputs[:levels], outputs[levels : 2 * levels], outputs[2 * levels : 2 * levels + 4]
    image, regions = _regions(add, logits, deltas, anchors, height, width, limits)
    head = network.roi_head
    features = _pooled(add, maps, image, regions, 7)
    scores, moves = _box_head(add, head.bbox_head, features)
    rows = _detections(add, image, regions, scores, moves, limits)
    masks = _masks(add, head.mask_head, maps, rows)
    for name, value in (("detections", rows), ("masks", masks)):
        graph.node.append(helper.make_node("Identity", [value], [name]))
    for name in ("sizes", "scales"):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]))
    del graph.output[:]
    for name, shape in (("detections", ["found", 7]), ("masks", ["found", 28, 28])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    checker.check_model(model)
    return model


def _regions(add: _Builder, logits: Sequence[str], deltas: Sequence[str], anchors, height, width, limits):
    """The image ``(R,)``, int64, and box ``(R, 4)`` of every region, as :class:`regions.Proposals` chooses them."""
    sizes = anchors.sizes(height, width)
    every = np.split(anchors.all(sizes), np.cumsum(anchors.counts(sizes))[:-1])
    boxes, scores = [], []
    for level, base in enumerate(every):
        count = min(len(base), limits.per_level)
        best, places = add("TopK", add("Sigmoid", logits[level]), add.integers(count), outputs=2, axis=1)
        moves = _gather_rows(add, deltas[level], places)
        boxes.append(_decoded(add, add("Gather", add.constant(base), places, axis=0), moves))
        own = np.zeros((1, len(every), 1), np.float32)
        own[0, level] = 1  # levels compete as classes do
        scores.append(add("Mul", add("Unsqueeze", best, add.integers(1)), add.constant(own)))
    boxes, scores = add("Concat", *boxes, axis=1), add("Concat", *scores, axis=2)  # (B, K, 4) and (B, levels, K)
    chosen = add(
        "NonMaxSuppression", boxes, scores, add.integers(limits.per_level), add.constant(OVERLAP), add.constant(0.0)
    )
    image, kind, place = (add.slice(chosen, 1, k, k + 1) for k in range(3))
    columns = [add("Cast", x, to=1) for x in (image, kind)]
    score = add("Unsqueeze", add("GatherND", scores, chosen), add.integers(1))
    box = add("GatherND", boxes, add("Concat", image, place, axis=1))
    rows = _limited(add, columns[0], box, score, columns[1], REGIONS)
    return _image_of(add, rows), add.slice(rows, 1, 1, 5)


def _image_of(add: _Builder, rows):
    return add("Cast", add("Squeeze", add.slice(rows, 1, 0, 1), add.integers(1)), to=7)


def _pooled(add: _Builder, maps: Sequence[str], image, regions, size: int):
    """Features ``(R, C, size, size)`` of regions, each from the map for its size; see :class:`layers.RoIAlign`."""
    low, high = add.slice(regions, 1, 0, 2), add.slice(regions, 1, 2, 4)
    side = add("Add", add("Div", add("Sqrt", _area(add, low, high)), add.constant(FINEST)), add.constant(1e-6))
    above = [add("GreaterOrEqual", side, add.constant(2.0**k)) for k in range(1, len(maps))]
    pooled, order = [], []
    for level, x in enumerate(maps):
        if level == 0:
            own = add("Not", above[0])
        elif level == len(maps) - 1:
            own = above[-1]
        else:
            own = add("And", above[level - 1], add("Not", above[level]))
        places = add("Squeeze", add("NonZero", own), add.integers(0))  # (R_k,)
        pooled.append(
            add(
                "RoiAlign", x, add("Gather", regions, places, axis=0), add("Gather", image, places, axis=0),
                coordinate_transformation_mode="half_pixel", mode="avg", output_height=size, output_width=size,
                sampling_ratio=0, spatial_scale=SCALES[level],
            )
        )  # fmt: skip
        order.append(places)
    pooled, order = add("Concat", *pooled, axis=0), add("Concat", *order, axis=0)
    count = add("Shape", order)
    _, back = add("TopK", add("Neg", add("Cast", order, to=1)), count, outputs=2)  # where each region went
    return add("Gather", pooled, back, axis=0)


def _area(add: _Builder, low, high):
    sides = add("Sub", high, low)
    area = add("Mul", add.slice(sides, 1, 0, 1), add.slice(sides, 1, 1, 2))
    return add("Squeeze", area, add.integers(1))


def _dense(add: _Builder, layer: nn.Dense, x):
    return add("Gemm", x, add.constant(layer.weight.asnumpy()), add.constant(layer.bias.asnumpy()), transB=1)


def _box_head(add: _Builder, head: nn.Cell, features):
    """Scores ``(R, C)`` without the background, and deltas ``(R, C, 4)``."""
    x = add("Flatten", features)
    for layer in head.shared_fcs:
        x = add("Relu", _dense(add, layer, x))
    classes = head.fc_cls.out_channels - 1
    scores = add.slice(add("Softmax", _dense(add, head.fc_cls, x), axis=1), 1, 0, classes)
    return scores, add("Reshape", _dense(add, head.fc_reg, x), add.integers(-1, classes, 4))


def _detections(add: _Builder, image, regions, scores, moves, limits: Limits):
    """Rows ``(N, 7)``: every region and class above the least score competes with others of its image and class."""
    places = add("Transpose", add("NonZero", add("Greater", scores, add.constant(limits.score))), perm=[1, 0])
    score = add("GatherND", scores, places)  # (M,)
    region, kind = (add("Squeeze", add.slice(places, 1, k, k + 1), add.integers(1)) for k in range(2))
    image = add("Gather", image, region, axis=0)
    moves = add("Mul", add("GatherND", moves, places), add.constant(STD))  # (M, 4)
    boxes = _decoded_rows(add, add("Gather", regions, region, axis=0), moves, image)
    boxes = _scaled_rows(add, boxes, image)
    classes = add("Slice", add("Shape", scores), add.integers(1), add.integers(2))
    images = add("Slice", add("Shape", "sizes"), add.integers(0), add.integers(1))
    group = add("Add", add("Mul", image, classes), kind)  # an image's class
    hot = add("OneHot", group, add("Mul", images, classes), add.constant([0.0, 1.0]), axis=0)  # (B * C, M)
    chosen = add(
        "NonMaxSuppression", add("Unsqueeze", boxes, add.integers(0)),
        add("Unsqueeze", add("Mul", hot, score), add.integers(0)),
        add.integers(limits.per_image), add.constant(limits.nms), add.constant(limits.score),
    )  # fmt: skip
    kept = add("Squeeze", add.slice(chosen, 1, 2, 3), add.integers(1))
    columns = [add("Gather", x, kept, axis=0) for x in (image, kind, score)]
    columns = [add("Unsqueeze", add("Cast", x, to=1), add.integers(1)) for x in columns]
    return _limited(add, columns[0], add("Gather", boxes, kept, axis=0), columns[2], columns[1], limits.per_image)


def _decoded_rows(add: _Builder, regions, moves, image):
    """Boxes ``(M, 4)`` of regions of several images, each clipped to its image."""
    boxes = _decoded(add, add("Unsqueeze", regions, add.integers(1)), add("Unsqueeze", moves, add.integers(1)),
                     add("Gather", "sizes", image, axis=0))  # fmt: skip
    return add("Squeeze", boxes, add.integers(1))


def _scaled_rows(add: _Builder, boxes, image, operator: str = "Div"):
    factors = add("Gather", "scales", image, axis=0)
    return add(operator, boxes, add("Concat", factors, factors, axis=1))


def _conv(add: _Builder, layer: nn.Cell, x, kind: str = "Conv", **attributes):
    weight = layer.weight.asnumpy()
    attributes.setdefault("pads", [weight.shape[-1] // 2] * 4)
    return add(kind, x, add.constant(weight), add.constant(layer.bias.asnumpy()), **attributes)


def _masks(add: _Builder, head: nn.Cell, maps, rows):
    """``(N, 28, 28)``, 0 to 1: the mask of each detection's class."""
    image = _image_of(add, rows)
    regions = _scaled_rows(add, add.slice(rows, 1, 1, 5), image, "Mul")
    x = _pooled(add, maps, image, regions, 14)
    for module in head.convs:
        x = add("Relu", _conv(add, module.conv, x))
    x = add("Relu", _conv(add, head.upsample, x, "ConvTranspose", strides=[2, 2], pads=[0] * 4))
    x = add("Sigmoid", _conv(add, head.conv_logits, x))  # (N, C, 28, 28)
    kind = add("Cast", add("Squeeze", add.slice(rows, 1, 6, 7), add.integers(1)), to=7)
    count = add("Squeeze", add("Shape", kind), add.integers(0))
    number = add("Range", add.constant(0, np.int64), count, add.constant(1, np.int64))  # (N,)
    index = add("Concat", *(add("Unsqueeze", each, add.integers(1)) for each in (number, kind)), axis=1)
    return add("GatherND", x, index)

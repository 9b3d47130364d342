"""MindSpore's primitives as ONNX operators, in the table ``TRANSLATIONS``.

All shapes are static except for the batch, and at most one dimension of a tensor grows with it. A reshape therefore
goes to the shape that MindSpore inferred; the graph's own arithmetic of shapes is dropped.
"""

from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np

from ..errors import InputError
from ..graph import Graph, Node
from .graph import OnnxGraph

__all__ = ["TRANSLATIONS", "translate"]

# From ``(graph, node, *inputs)`` to the primitive's result: the ONNX name of a tensor, a number, or a tuple of these.
TRANSLATIONS: Dict[str, Callable[..., Any]] = {}


def translate(source: Graph, parameters: Dict[str, np.ndarray]) -> OnnxGraph:
    """The ONNX graph of a compiled network with the values of its ``parameters``.

    Raises:
        InputError: the network uses a primitive that is not in the table.
    """
    unknown = sorted({node.primitive for node in source.nodes} - set(TRANSLATIONS))
    if unknown:
        raise InputError(
            f"the network uses {', '.join(unknown)}, which export to ONNX does not support: write it with other "
            "operators, add it to mindcv_models/export/operators.py, or export to MINDIR."
        )
    graph = OnnxGraph(input="images")
    graph.shapes[graph.input] = source.input_shape
    values = {source.input: graph.input}
    values.update((name, graph.constant(parameters[own], own)) for name, own in source.parameters.items())
    for name, value in source.constants.items():
        values[name] = graph.constant(value) if isinstance(value, np.ndarray) else value
    for node in source.nodes:
        values[node.output] = TRANSLATIONS[node.primitive](graph, node, *(values[name] for name in node.inputs))
    graph.outputs = list(_flattened(values[source.output]))
    return graph


def _flattened(value):
    if not isinstance(value, tuple):
        yield value
        return
    for item in value:
        yield from _flattened(item)


def translates(*primitives):
    """Register a function in the table."""

    def enter(function):
        TRANSLATIONS.update(dict.fromkeys(primitives, function))
        return function

    return enter


def refuse(node: Node, what: str):
    raise InputError(f"export to ONNX does not support {node.primitive} with {what}: export to MINDIR.")


# Order and grouping of values.


@translates("Load", "Depend")
def _first(graph, node, value, *_):
    return value


@translates("UpdateState")
def _nothing(graph, node, *_):
    return None


@translates("MakeTuple")
def _make_tuple(graph, node, *items):
    return items


@translates("TupleGetItem")
def _item(graph, node, items, index):
    return items[index]


@translates("Shape")
def _shape(graph, node, x):
    return tuple(None if size < 0 else size for size in graph.shapes[x])


@translates("ScalarAdd", "ScalarSub", "ScalarMul", "ScalarFloorDiv", "ScalarDiv", "ScalarMod", "ScalarUsub")
def _arithmetic_of_shapes(graph, node, *_):
    return None  # only reshapes use it, and their shapes are known


# Element-wise operators.

_SAME = {
    "Add": "Add", "Sub": "Sub", "Mul": "Mul", "Muls": "Mul", "Div": "Div", "RealDiv": "Div", "Pow": "Pow",
    "Minimum": "Min", "Maximum": "Max", "Neg": "Neg", "Exp": "Exp", "Erf": "Erf", "Sqrt": "Sqrt", "Tanh": "Tanh",
    "ReLU": "Relu", "Sigmoid": "Sigmoid",
}  # fmt: skip


@translates(*_SAME)
def _same(graph, node, *inputs):
    names = [x if isinstance(x, str) else graph.constant(np.float32(x)) for x in inputs]
    return graph.add(_SAME[node.primitive], names, node.shape)


@translates("BiasAdd")
def _bias_add(graph, node, x, bias, _format):
    spatial = len(node.shape) - 2
    if spatial:
        bias = graph.reshape(bias, (node.shape[1],) + (1,) * spatial)
    return graph.add("Add", [x, bias], node.shape)


# Layers.


class Deformed(NamedTuple):
    """The inputs of ``DeformableOffsets``, for the convolution that has to follow it."""

    inputs: Tuple[str, str, str]  # the map, its offsets in ONNX's order, the factors of the taps
    geometry: Dict[str, Any]


@translates("Conv2D")
def _conv(graph, node, x, weight):
    own = node.attributes
    if isinstance(x, Deformed):
        source, offsets, mask = x.inputs
        return graph.add(
            "DeformConv", [source, weight, offsets, "", mask], node.shape, group=own["group"], **x.geometry
        )
    geometry = _geometry(own["kernel_size"], own["stride"], own["pad_list"], own["dilation"])
    return graph.add("Conv", [x, weight], node.shape, group=own["group"], **geometry)


def _geometry(kernel, strides, pads, dilations):
    top, bottom, left, right = pads
    return {
        "kernel_shape": list(kernel), "strides": list(strides[-2:]), "pads": [top, left, bottom, right],
        "dilations": list(dilations[-2:]),
    }  # fmt: skip


@translates("DeformableOffsets")
def _deformable_offsets(graph, node, x, moved):
    """MindSpore's offsets are all horizontal, all vertical, all factors; ONNX's are vertical and horizontal per tap."""
    own = node.attributes
    b, channels, h, w = graph.shapes[moved]
    taps = channels // 3
    horizontal, vertical, mask = graph.add_many(
        "Split", [moved], [(b, taps, h, w)] * 3, axis=1, num_outputs=3
    )  # fmt: skip
    axis = graph.constant([2])
    pair = [graph.add("Unsqueeze", [part, axis], (b, taps, 1, h, w)) for part in (vertical, horizontal)]
    offsets = graph.add("Concat", pair, (b, taps, 2, h, w), axis=2)
    offsets = graph.reshape(offsets, (b, 2 * taps, h, w))
    geometry = _geometry(own["ksize"], own["strides"], own["pads"], own["dilations"])
    return Deformed((x, offsets, mask), {**geometry, "offset_group": own["deformable_groups"]})


@translates("BatchNorm")
def _batch_norm(graph, node, x, gamma, beta, mean, variance, training, epsilon, *_):
    if training:
        refuse(node, "batch statistics")
    return graph.add_many(
        "BatchNormalization", [x, gamma, beta, mean, variance], node.shape[:1], epsilon=float(epsilon)
    )


@translates("LayerNorm")
def _layer_norm(graph, node, x, gamma, beta, axis, _parameters_axis, epsilon):
    return graph.add_many("LayerNormalization", [x, gamma, beta], node.shape[:1], axis=axis, epsilon=float(epsilon))


@translates("MatMul", "MatMulExt")
def _matmul(graph, node, a, b, transpose_a=False, transpose_b=False):
    operands = [_swapped(graph, x) if swap else x for x, swap in ((a, transpose_a), (b, transpose_b))]
    return graph.add("MatMul", operands, node.shape)


def _swapped(graph, x):
    *batch, rows, columns = graph.shapes[x]
    order = [*range(len(batch)), len(batch) + 1, len(batch)]
    return graph.add("Transpose", [x], (*batch, columns, rows), perm=order)


@translates("Softmax")
def _softmax(graph, node, x, axes):
    return graph.add("Softmax", [x], node.shape, axis=axes[0])


@translates("ReduceMean")
def _mean(graph, node, x, axes, keep, *_):
    axes = axes if isinstance(axes, tuple) else (axes,)
    return graph.add("ReduceMean", [x, graph.constant(axes)], node.shape, keepdims=int(keep))


@translates("AvgPool")
def _average_pool(graph, node, x, kernel, strides, pad_mode, _format):
    if pad_mode != 2:  # "valid"
        refuse(node, "padding")
    return graph.add("AveragePool", [x], node.shape, kernel_shape=list(kernel[-2:]), strides=list(strides[-2:]))


# Layout.


@translates("Reshape", "ExpandDims", "Squeeze")
def _reshape(graph, node, x, *_):
    return graph.reshape(x, node.shape)


@translates("Transpose")
def _transpose(graph, node, x, order):
    return graph.add("Transpose", [x], node.shape, perm=[axis % len(order) for axis in order])


@translates("Concat")
def _concat(graph, node, parts, axis):
    return graph.add("Concat", parts, node.shape, axis=axis)


@translates("Unstack")
def _unstack(graph, node, x):
    axis, shape = node.attributes["axis"], graph.shapes[x]
    axis %= len(shape)
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = graph.add_many("Split", [x], [single] * shape[axis], axis=axis, num_outputs=shape[axis])
    axes = graph.constant([axis])
    return tuple(graph.add("Squeeze", [part, axes], single[:axis] + single[axis + 1 :]) for part in parts)


@translates("Gather")
def _gather(graph, node, x, index, axis, batch_dims):
    if batch_dims:
        refuse(node, "batch_dims")
    return graph.add("Gather", [x, index], node.shape, axis=axis)


@translates("StridedSlice")
def _slice(graph, node, x, begin, end, strides, begin_mask, end_mask, *other_masks):
    before, after = graph.shapes[x], node.shape
    if any(other_masks) or min(strides) < 1:
        refuse(node, "new or dropped axes, or negative strides")
    cuts = []
    for axis, stride in enumerate(strides):
        start = 0 if begin_mask >> axis & 1 else begin[axis] or 0
        if start or before[axis] != after[axis]:
            start %= before[axis]
            cuts.append((start, start + (after[axis] - 1) * stride + 1, axis, stride))
    if not cuts:
        return x
    return graph.add("Slice", [x, *(graph.constant(column) for column in zip(*cuts))], after)


@translates("OnesLike")
def _ones_like(graph, node, x):
    one = graph.constant(np.ones(1, np.float32))
    shape = graph.add("Shape", [x], (len(node.shape),))
    return graph.add("Expand", [one, shape], node.shape)


@translates("ResizeBilinearV2")
def _bilinear(graph, node, x, _size, align_corners, half_pixel_centers):
    """Between pixel centres."""
    if align_corners or not half_pixel_centers:
        refuse(node, "aligned corners")
    return _resize(graph, node, x, mode="linear", coordinate_transformation_mode="half_pixel")


@translates("Argmax")
def _argmax(graph, node, x, axis, _type):
    result = graph.add("ArgMax", [x], node.shape, axis=axis, keepdims=0)
    graph.integers.add(result)
    return result


@translates("Pad")
def _pad(graph, node, x):
    margins = node.attributes["paddings"]
    pads = [before for before, _ in margins] + [after for _, after in margins]
    return graph.add("Pad", [x, graph.constant(pads)], node.shape)


@translates("ResizeNearestNeighbor", "ResizeNearestNeighborV2", "UpsampleNearest2D")
def _nearest(graph, node, x, *_):
    """Pixel ``i`` comes from ``floor(i * before / after)``."""
    return _resize(
        graph, node, x, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )  # fmt: skip


def _resize(graph, node, x, **how):
    """Only the two last sizes change; the batch may be dynamic."""
    shape = graph.add("Shape", [x], (4,))
    batch = graph.add("Slice", [shape, graph.constant([0]), graph.constant([2])], (2,))
    sizes = graph.add("Concat", [batch, graph.constant(node.shape[2:])], (4,), axis=0)
    return graph.add("Resize", [x, "", "", sizes], node.shape, **how)

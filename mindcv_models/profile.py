"""Parameters and multiply-accumulates of a network, for any of the families and any model of MindCV."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Tuple

import numpy as np
from mindspore import nn

from .graph import Graph, Node, capture

__all__ = ["Profile", "count_operators", "profile"]


@dataclass(frozen=True)
class Profile:
    """Learnable parameters and multiply-accumulates per image ("FLOPs" in most papers) of a network."""

    parameters: int
    flops: int


def profile(network: nn.Cell, height: int, width: int, in_channels: int = 3) -> Profile:
    """Parameters and FLOPs of ``network`` for one image of ``height`` x ``width``: see :func:`count_operators`."""
    parameters = sum(parameter.size for parameter in network.trainable_params())
    return Profile(parameters, sum(count_operators(network, (1, in_channels, height, width)).values()))


def count_operators(network: nn.Cell, shape: Tuple[int, int, int, int]) -> Counter:
    """Multiply-accumulates of ``network`` in evaluation mode on images of ``shape`` ``(B, C, H, W)``, by primitive.

    Convolutions and matrix products of the compiled graph are counted, attention included. Element-wise operations,
    biases, normalisation, softmax, pooling and bilinear sampling are not. For the figures that papers report, build the
    network within ``backend.portable_form()``: some cells have another form on the CPU, which takes more operations but
    less time.

    Raises:
        NotImplementedError: the graph has a convolution or matrix product without a counting rule.
    """
    training = network.training
    try:
        graph = capture(network, shape)
    finally:
        network.set_train(training)
    shapes = _shapes(graph, network)
    counts = Counter()
    for node in graph.nodes:
        if node.primitive in _COUNTED:
            counts[node.primitive] += math.prod(node.shape) * _COUNTED[node.primitive](node, graph, shapes)
        elif re.search("Conv|MatMul|Dense|Attention|Einsum|LSTM|GRU", node.primitive):
            raise NotImplementedError(f"{node.primitive}: add its multiply-accumulates to mindcv_models/profile.py.")
    return counts


def _shapes(graph: Graph, network):
    """The shape of every tensor of the graph, by its name in the graph."""
    own = network.parameters_dict()
    shapes = {graph.input: graph.input_shape}
    shapes.update((name, own[parameter].shape) for name, parameter in graph.parameters.items())
    shapes.update((name, value.shape) for name, value in graph.constants.items() if isinstance(value, np.ndarray))
    for node in graph.nodes:
        shapes[node.output] = node.shape
    return shapes


# Multiply-accumulates per element of the result.


def _of_convolution(node: Node, graph, shapes):
    attributes = node.attributes
    return shapes[node.inputs[0]][1] // attributes["group"] * math.prod(attributes["kernel_size"])


def _of_product(node: Node, graph, shapes):
    """The length of the summed axis: the last of the left operand, or the one before it where that is transposed."""
    transposed = len(node.inputs) > 2 and graph.constants[node.inputs[2]]
    return shapes[node.inputs[0]][-2 if transposed else -1]


def _of_dense(node: Node, graph, shapes):
    return shapes[node.inputs[0]][-1]


_COUNTED = {
    "Conv2D": _of_convolution,
    "MatMul": _of_product,
    "MatMulExt": _of_product,
    "BatchMatMul": _of_product,
    "BatchMatMulExt": _of_product,
    "Dense": _of_dense,
}

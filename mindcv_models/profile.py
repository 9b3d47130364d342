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
    """What a network costs for one image: learnable parameters and multiply-accumulates ("FLOPs" in most papers)."""

    parameters: int
    flops: int


def profile(network: nn.Cell, height: int, width: int, in_channels: int = 3) -> Profile:
    """Count what ``network`` costs for one image of ``height`` x ``width``: see :func:`count_operators`."""
    parameters = sum(parameter.size for parameter in network.trainable_params())
    return Profile(parameters, sum(count_operators(network, (1, in_channels, height, width)).values()))


def count_operators(network: nn.Cell, shape: Tuple[int, int, int, int]) -> Counter:
    """Multiply-accumulates of ``network`` in evaluation mode on images of ``shape`` ``(B, C, H, W)``, by primitive.

    Counted are the convolutions and matrix products of the compiled graph, attention's included. Element-wise work,
    biases, normalisation, softmax and pooling are not, nor is bilinear sampling. A network built within
    ``backend.portable_form()`` counts as papers do; some cells take another form on the CPU, which has more
    operations and needs less time.

    Raises:
        NotImplementedError: the graph has a convolution or matrix product that this does not know.
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
    """The shape of every tensor of the graph, by its name there."""
    own = network.parameters_dict()
    shapes = {graph.input: graph.input_shape}
    shapes.update((name, own[parameter].shape) for name, parameter in graph.parameters.items())
    shapes.update((name, value.shape) for name, value in graph.constants.items() if isinstance(value, np.ndarray))
    for node in graph.nodes:
        shapes[node.output] = node.shape
    return shapes


# What one element of the result takes.


def _of_convolution(node: Node, graph, shapes):
    attributes = node.attributes
    return shapes[node.inputs[0]][1] // attributes["group"] * math.prod(attributes["kernel_size"])


def _of_loops(node: Node, graph, shapes):
    return math.prod(shapes[node.inputs[1]][1:])  # of layers.DepthwiseConv2d, the one operator of our own


def _of_product(node: Node, graph, shapes):
    """The length of the summed axis: the last of the left operand, or the one before it where that is transposed."""
    transposed = len(node.inputs) > 2 and graph.constants[node.inputs[2]]
    return shapes[node.inputs[0]][-2 if transposed else -1]


def _of_dense(node: Node, graph, shapes):
    return shapes[node.inputs[0]][-1]


_COUNTED = {
    "Conv2D": _of_convolution,
    "Custom": _of_loops,
    "MatMul": _of_product,
    "MatMulExt": _of_product,
    "BatchMatMul": _of_product,
    "BatchMatMulExt": _of_product,
    "Dense": _of_dense,
}

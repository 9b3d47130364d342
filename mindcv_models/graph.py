"""A compiled network as MindSpore writes it: MINDIR files, and their graph as plain data.

A MINDIR file has one list of primitives, with every call inlined and every shape inferred; a dynamic batch dimension is
-1. Other formats are translated from it.
"""

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import AttributeProto, TensorProto

__all__ = ["METADATA_KEY", "Graph", "Node", "capture", "write_mindir"]

Shape = Tuple[int, ...]

METADATA_KEY = "mindcv_models"  # the key of the preprocessing in exported files

_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.FLOAT64: np.float64,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.BOOL: np.bool_,
}


@dataclass(frozen=True)
class Node:
    """A call of a primitive; ``shape`` is the shape of its result, or a tuple of shapes if it has several results."""

    primitive: str
    attributes: Dict[str, Any]
    inputs: Tuple[str, ...]
    output: str
    shape: Any


@dataclass(frozen=True)
class Graph:
    """A compiled network, its nodes in the order of execution.

    Attributes:
        input, output: the names of the one input and the result, which is a tensor or a tuple.
        input_shape: ``(B, C, H, W)``, B is -1 for a dynamic batch.
        parameters: the network's name of each parameter, by its name in the graph.
        constants: tensors as arrays; numbers, strings and tuples unchanged.
    """

    input: str
    input_shape: Shape
    output: str
    parameters: Dict[str, str]
    constants: Dict[str, Any]
    nodes: List[Node]


class _CapturedError(Exception):
    """Carries a compiled graph out of MindSpore's export."""


def capture(network: nn.Cell, shape: Tuple[Optional[int], ...]) -> Graph:
    """Compile ``network`` for images of ``shape`` ``(B, C, H, W)``, None for a dynamic batch; writes no file."""

    def stop(model):
        raise _CapturedError(model)

    try:
        _export(network, shape, "unwritten", stop)
    except _CapturedError as captured:
        return _read(captured.args[0])
    raise AssertionError("MindSpore's export did not call its custom_func")


def write_mindir(network: nn.Cell, shape: Tuple[Optional[int], ...], path: str, metadata: Dict) -> None:
    """Export ``network`` for images of ``shape``, with ``metadata`` as JSON in the file's ``user_info``.

    Above 1 GB MindSpore writes ``<name>_graph.mindir`` and a folder ``<name>_variables`` instead of ``<name>.mindir``.
    """

    def annotate(model):
        # MindSpore's message definitions are old: newer Protocol Buffers treat this mapping as a list of its entries.
        model.user_info.add(key=METADATA_KEY, value=json.dumps(metadata))

    _export(network, shape, path, annotate)


def _export(network, shape, path, custom_func):
    images = Tensor(shape=shape, dtype=ms.float32) if shape[0] is None else Tensor(np.zeros(shape, np.float32))
    ms.export(network.set_train(False), images, file_name=path, file_format="MINDIR", custom_func=custom_func)


def _read(model) -> Graph:
    graph = model.graph
    primitives = {primitive.name: primitive for primitive in model.primitives}
    constants, nodes = {}, []
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _value(node.attribute[0])
            continue
        primitive = primitives[node.op_type.removeprefix("REF::")]
        attributes = {attribute.name: _value(attribute) for attribute in primitive.attribute}
        shapes = [_shape(attribute) for attribute in node.attribute if attribute.name == "shape"]
        nodes.append(
            Node(primitive.op_type, attributes, tuple(node.input), node.output[0], shapes[0] if shapes else None)
        )
    (images,), (result,) = graph.input, graph.output
    parameters = {p.name: p.name.partition(":")[2] for p in graph.parameter}
    return Graph(images.name, tuple(images.tensor[0].dims), result.name, parameters, constants, nodes)


def _value(attribute) -> Any:
    """The Python value of an attribute: a number, string, array or tuple; None if it has no value."""
    kind = AttributeProto.AttributeType
    if attribute.type in (kind.TUPLE, kind.LIST):
        return tuple(_value(item) for item in attribute.values)
    if attribute.type == kind.TENSORS:
        return _array(attribute.tensors[0])
    if attribute.type == kind.STRING:
        return (attribute.s or b"".join(attribute.strings[:1])).decode()
    if attribute.type == kind.FLOAT:
        return attribute.floats[0] if attribute.floats else attribute.f
    if attribute.type == kind.BOOL:
        return bool(attribute.ints[0] if attribute.ints else attribute.i)
    if attribute.type in (kind.INT64, kind.INT32):
        return attribute.ints[0] if attribute.ints else attribute.i
    return None


def _array(tensor) -> np.ndarray:
    return np.frombuffer(tensor.raw_data, _TYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def _shape(attribute) -> Any:
    if attribute.type == AttributeProto.AttributeType.TUPLE:
        return tuple(_shape(item) for item in attribute.values)
    return tuple(attribute.tensors[0].dims) if attribute.tensors else ()

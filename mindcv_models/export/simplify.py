"""Passes over an ONNX graph that leave its function as it is and make it smaller and faster."""

import math

import numpy as np

from .graph import OnnxGraph, Operator

__all__ = ["simplify"]


def simplify(graph: OnnxGraph) -> None:
    """Apply every pass, in place."""
    graph.prune()
    join_gelu(graph)
    fold_constants(graph)
    fold_affine(graph)
    graph.prune()


def fold_constants(graph: OnnxGraph) -> None:
    """Compute what depends on constants alone, by ONNX's reference implementation."""
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    for operator in list(graph.operators):
        if not all(name in graph.constants for name in operator.inputs):
            continue
        node = make_node(operator.type, operator.inputs, operator.outputs, **operator.attributes)
        results = ReferenceEvaluator(node).run(None, {name: graph.constants[name] for name in operator.inputs})
        for name, value in zip(operator.outputs, results):
            graph.constant(value, name)
        graph.operators.remove(operator)


def join_gelu(graph: OnnxGraph) -> None:
    """Make ``x * (1 + erf(x / sqrt(2))) / 2``, as MindSpore spells it, one operator."""
    producers, consumers = graph.producers(), graph.consumers()

    def only_user(name, type):
        users = consumers[name]
        return users[0] if len(users) == 1 and users[0].type == type else None

    for erf in [operator for operator in graph.operators if operator.type == "Erf"]:
        scaled = producers.get(erf.inputs[0])
        plus = only_user(erf.outputs[0], "Add")
        times = only_user(plus.outputs[0], "Mul") if plus else None
        half = only_user(times.outputs[0], "Mul") if times else None
        if not half or not scaled or scaled.type != "Div" or scaled.inputs[0] not in times.inputs:
            continue
        numbers = [_number(graph, op) for op in (scaled, plus, half)]
        if not np.allclose(numbers, (math.sqrt(2), 1, 0.5), rtol=1e-6, atol=0):
            continue
        half.type, half.inputs = "Gelu", [scaled.inputs[0]]
    graph.prune()


def _number(graph, operator):
    """The single number that an operator takes, or NaN."""
    values = [graph.constants[name] for name in operator.inputs if name in graph.constants]
    return values[0].item() if len(values) == 1 and values[0].size == 1 else math.nan


def fold_affine(graph: OnnxGraph) -> None:
    """Fold what scales and shifts the channels of a convolution into its weight and bias."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        for name in operator.inputs:
            conv = producers.get(name)
            if conv is not None and conv.type == "Conv" and len(consumers[name]) == 1:
                break
        else:
            continue
        channels = graph.shapes[name][1]
        affine = _affine(graph, operator, name, channels)
        if affine is None or conv.inputs[1] not in graph.constants:
            continue
        _scale_and_shift(graph, conv, *affine)
        producers[operator.outputs[0]] = conv
        conv.outputs = operator.outputs
        graph.operators.remove(operator)


def _affine(graph, operator: Operator, x: str, channels: int):
    """The factor and the term ``(channels,)`` that an operator applies to ``x``, or None if it does something else."""
    others = [graph.constants.get(name) for name in operator.inputs if name != x]
    if any(other is None for other in others):
        return None
    if operator.type == "BatchNormalization":
        gamma, beta, mean, variance = (other.astype(np.float64) for other in others)
        factor = gamma / np.sqrt(variance + operator.attributes["epsilon"])
        return factor, beta - mean * factor
    if operator.type not in ("Add", "Mul") or len(others) != 1:
        return None
    value = others[0].astype(np.float64)
    if value.size > 1 and (value.ndim < 3 or value.size != channels or value.shape[-3] != channels):
        return None
    value = np.broadcast_to(value.reshape(-1), channels)
    return (1.0, value) if operator.type == "Add" else (value, 0.0)


def _scale_and_shift(graph, conv, factor, term):
    weight = graph.constants[conv.inputs[1]].astype(np.float64)
    bias = graph.constants[conv.inputs[2]].astype(np.float64) if len(conv.inputs) > 2 else np.zeros(len(weight))
    factor = np.broadcast_to(factor, len(weight))
    values = (weight * factor.reshape(-1, 1, 1, 1), bias * factor + term)
    conv.inputs[1:] = [graph.constant(value.astype(np.float32)) for value in values]

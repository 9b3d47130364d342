"""Passes that make an ONNX graph smaller and faster and keep its function.

They complement ONNX Runtime's own optimizer, which adds blocked layouts, fuses residuals into convolutions and removes
pairs of transposes.
"""

import math

import numpy as np

from .graph import OnnxGraph, Operator

__all__ = ["simplify"]


def simplify(graph: OnnxGraph) -> None:
    """Apply every pass, in place."""
    graph.prune()
    for improve in (join_gelu, fold_constants, fold_affine, split_multipliers, transpose_keys_alone, cut_windows_last):
        improve(graph)
        graph.prune()


def fold_constants(graph: OnnxGraph) -> None:
    """Compute values that depend only on constants, with ONNX's reference implementation."""
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    for operator in list(graph.operators):
        if not all(name in graph.constants for name in operator.inputs if name):
            continue
        node = make_node(operator.type, operator.inputs, operator.outputs, **operator.attributes)
        results = ReferenceEvaluator(node).run(None, {name: graph.constants[name] for name in operator.inputs if name})
        for name, value in zip(operator.outputs, results):
            graph.constant(value, name)
        graph.operators.remove(operator)


def join_gelu(graph: OnnxGraph) -> None:
    """Replace ``x * (1 + erf(x / sqrt(2))) / 2``, as MindSpore writes it, by one operator."""
    producers = graph.producers()
    for erf in [operator for operator in graph.operators if operator.type == "Erf"]:
        scaled = producers.get(erf.inputs[0])
        plus = graph.only_user(erf.outputs[0], "Add")
        times = plus and graph.only_user(plus.outputs[0], "Mul")
        half = times and graph.only_user(times.outputs[0], "Mul")
        if not half or not scaled or scaled.type != "Div" or scaled.inputs[0] not in times.inputs:
            continue
        numbers = [_number(graph, operator) for operator in (scaled, plus, half)]
        if np.allclose(numbers, (math.sqrt(2), 1, 0.5), rtol=1e-6, atol=0):
            half.type, half.inputs = "Gelu", [scaled.inputs[0]]


def _number(graph, operator):
    """The only scalar constant among an operator's inputs, or NaN."""
    values = [graph.constants[name] for name in operator.inputs if name in graph.constants]
    return values[0].item() if len(values) == 1 and values[0].size == 1 else math.nan


# Which input of a convolution is its bias.
_BIAS = {"Conv": 2, "DeformConv": 3}


def fold_affine(graph: OnnxGraph) -> None:
    """Fold operators that scale or shift the channels of a convolution into its weight and bias."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        sources = [(name, producers.get(name)) for name in operator.inputs if len(consumers[name]) == 1]
        sources = [(name, conv) for name, conv in sources if conv and conv.type in _BIAS]
        if len(sources) != 1 or sources[0][1].inputs[1] not in graph.constants:
            continue
        name, conv = sources[0]
        affine = _affine(graph, operator, name, graph.shapes[name][1])
        if affine is None:
            continue
        _scale_and_shift(graph, conv, *affine)
        producers[operator.outputs[0]] = conv
        conv.outputs = operator.outputs
        graph.operators.remove(operator)


def _affine(graph, operator: Operator, x: str, channels: int):
    """The factor and the term ``(channels,)`` that an operator applies to ``x``, or None for other operators."""
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
    place = _BIAS[conv.type]
    conv.inputs += [""] * (place + 1 - len(conv.inputs))
    weight = graph.constants[conv.inputs[1]].astype(np.float64)
    bias = graph.constants.get(conv.inputs[place], np.zeros(len(weight))).astype(np.float64)
    factor = np.broadcast_to(factor, len(weight))
    conv.inputs[1] = graph.constant((weight * factor.reshape(-1, 1, 1, 1)).astype(np.float32))
    conv.inputs[place] = graph.constant((bias * factor + term).astype(np.float32))


def split_multipliers(graph: OnnxGraph) -> None:
    """Split a depthwise convolution with ``m`` outputs per channel into ``m`` with one, several times as fast.

    Their outputs are concatenated, and the weight of the next convolution is reordered to match.
    """
    for conv in [operator for operator in graph.operators if operator.type == "Conv"]:
        groups, shape = conv.attributes["group"], graph.shapes[conv.outputs[0]]
        multiplier = shape[1] // groups
        after = graph.only_user(conv.outputs[0], "Conv")
        if groups == 1 or multiplier == 1 or graph.shapes[conv.inputs[1]][1] != 1:
            continue
        if not after or after.attributes["group"] != 1:
            continue
        weights = [graph.constants[name] for name in conv.inputs[1:]]
        single = (shape[0], groups, *shape[2:])
        parts = []
        for part in range(multiplier):
            constants = [graph.constant(weight[part::multiplier]) for weight in weights]
            parts.append(graph.add("Conv", [conv.inputs[0], *constants], single, before=conv, **conv.attributes))
        joined = graph.add("Concat", parts, shape, before=conv, axis=1)
        order = np.arange(shape[1]).reshape(groups, multiplier).T.reshape(-1)
        after.inputs[0] = joined
        after.inputs[1] = graph.constant(graph.constants[after.inputs[1]][:, order])


def transpose_keys_alone(graph: OnnxGraph) -> None:
    """Multiply queries by keys as ``(B * heads, N, D)``, so that ONNX Runtime fuses the transpose into the product.

    With four axes it merges the transpose of the keys with the one that split the heads, which is slow. A factor of the
    queries is moved behind the product, where it is fused too.
    """
    producers = graph.producers()
    for product in [operator for operator in graph.operators if operator.type == "MatMul"]:
        queries, swap = product.inputs[0], producers.get(product.inputs[1])
        if not swap or swap.type != "Transpose" or swap.attributes["perm"] != [0, 1, 3, 2]:
            continue
        shape = graph.shapes[product.outputs[0]]
        factor = None
        scaled = producers.get(queries)
        if scaled and scaled.type == "Mul" and not math.isnan(_number(graph, scaled)):
            factor = next(name for name in scaled.inputs if name in graph.constants)
            queries = next(name for name in scaled.inputs if name != factor)
        keys = swap.inputs[0]

        def flat(x, product=product):
            *_, rows, columns = graph.shapes[x]
            return graph.reshape(x, (-1, rows, columns), before=product)

        keys = flat(keys)
        keys = graph.add("Transpose", [keys], (-1, *graph.shapes[keys][:0:-1]), before=product, perm=[0, 2, 1])
        scores = graph.add("MatMul", [flat(queries), keys], (-1, *shape[2:]), before=product)
        if factor:
            scores = graph.add("Mul", [scores, factor], (-1, *shape[2:]), before=product)
        graph.redirect(product.outputs[0], graph.reshape(scores, shape, before=product))


def cut_windows_last(graph: OnnxGraph) -> None:
    """Move the channels of a map to the end before it is cut into windows, and back after the windows are merged.

    One transpose for both copies single numbers; two copy rows of channels.
    """
    producers = graph.producers()
    for turn in [operator for operator in graph.operators if operator.type == "Transpose"]:
        order, x, y = turn.attributes["perm"], turn.inputs[0], turn.outputs[0]
        split, merge = producers.get(x), graph.only_user(y, "Reshape")
        if (
            order == [0, 2, 4, 3, 5, 1]
            and split
            and split.type == "Reshape"
            and len(graph.shapes[split.inputs[0]]) == 4
        ):
            b, c, h, w = graph.shapes[split.inputs[0]]
            _, _, rows, s, columns, t = graph.shapes[x]
            last = graph.add("Transpose", [split.inputs[0]], (b, h, w, c), before=turn, perm=[0, 2, 3, 1])
            cut = graph.reshape(last, (b, rows, s, columns, t, c), before=turn)
            windows = graph.add("Transpose", [cut], graph.shapes[y], before=turn, perm=[0, 1, 3, 2, 4, 5])
            graph.redirect(y, windows)
        elif order == [0, 5, 1, 3, 2, 4] and merge and len(graph.shapes[merge.outputs[0]]) == 4:
            b, rows, columns, s, t, c = graph.shapes[x]
            b, c, h, w = graph.shapes[merge.outputs[0]]
            rows_first = graph.add("Transpose", [x], (b, rows, s, columns, t, c), before=merge, perm=[0, 1, 3, 2, 4, 5])
            whole = graph.reshape(rows_first, (b, h, w, c), before=merge)
            graph.redirect(
                merge.outputs[0], graph.add("Transpose", [whole], (b, c, h, w), before=merge, perm=[0, 3, 1, 2])
            )

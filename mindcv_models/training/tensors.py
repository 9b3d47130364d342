"""Arithmetic over tuples of tensors, within a graph."""

from mindspore import ops

__all__ = ["add_to", "all_finite", "clear", "put", "scaled"]


def scaled(tensors, factor):
    return ops.HyperMap()(ops.partial(multiply, factor), tensors)


def all_finite(tensors):
    """True if no element of any tensor is infinite or not a number."""
    return ops.stack(ops.HyperMap()(is_finite, tensors)).all()


def is_finite(tensor):
    return ops.isfinite(tensor).all()


def add_to(total, tensor):
    return ops.assign_add(total, tensor)


def put(parameter, value):
    return ops.assign(parameter, value)


def clear(tensor):
    return ops.assign(tensor, ops.zeros_like(tensor))


def multiply(factor, tensor):
    return tensor * ops.cast(factor, tensor.dtype)

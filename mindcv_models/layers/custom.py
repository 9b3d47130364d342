"""Operators in C++ for the CPU, which only graph mode can run."""

from typing import Sequence

import mindspore as ms
from mindspore import ops
from mindspore.ops import signature as sig

__all__ = ["Loops", "are_single", "in_graph_mode"]


class Loops(ops.Custom):
    """An operator of our own, which copies of a cell share: MindSpore cannot copy it.

    In graph mode only: eagerly, MindSpore starts such an operator before its inputs have been computed.

    Args:
        attributes: what the shape of the result depends on beside the inputs. MindSpore has to see it: without, a graph
            with RoIAlign of 7 x 7 and of 14 x 14 was given one's shape for the other, in two of a dozen runs of all
            tests and never alone.
        writes: for each input, whether it is a parameter that the operator writes; MindSpore has to know that too.

    Raises:
        TypeError: when compiled, an operator that writes is given anything but float32.
    """

    def __init__(self, func, out_shape, out_dtype, *args, attributes=None, writes: Sequence[bool] = (), **kwargs):
        super().__init__(func, out_shape, _float32_only(out_dtype) if writes else out_dtype, *args, **kwargs)
        if writes:
            kinds = [sig.sig_rw.RW_WRITE if write else sig.sig_rw.RW_READ for write in writes]
            self.set_signatures(tuple(sig.make_sig(f"input{k}", kind) for k, kind in enumerate(kinds)))
            self.add_prim_attr("side_effect_mem", True)
        for name, value in (attributes or {}).items():
            self.add_prim_attr(name, value)

    def __deepcopy__(self, memo):
        return self


def _float32_only(out_dtype):
    """What it gives, unless an input is cast, so that a copy would be written; with too few bytes in it."""

    def checked(*types):
        if any("Float32" not in str(kind) for kind in types):  # Tensor[Float32], or Ref[Tensor[Float32]] of a parameter
            raise TypeError(f"operators in C++ write float32 parameters, not {', '.join(map(str, types))}.")
        return out_dtype(*types)

    return checked


@ops.constexpr
def in_graph_mode():
    return ms.get_context("mode") == ms.GRAPH_MODE


def are_single(tensors):
    """Whether there are several tensors, all of float32, in a graph: an operator may have as many results then."""
    return _are_single(ops.HyperMap()(_type_of, tensors))


def _type_of(tensor):
    return tensor.dtype


@ops.constexpr
def _are_single(types):
    return len(types) > 1 and all(each == ms.float32 for each in types)

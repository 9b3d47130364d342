"""Operators in C++ for the CPU, which only graph mode can run."""

from typing import Sequence

import mindspore as ms
from mindspore import ops
from mindspore.ops import signature as sig

__all__ = ["Loops", "in_graph_mode"]


class Loops(ops.Custom):
    """An operator of our own, which copies of a cell share: MindSpore cannot copy it.

    In graph mode only: eagerly, MindSpore starts such an operator before its inputs have been computed.

    Args:
        attributes: what the shape of the result depends on beside the inputs. MindSpore has to see it: without, a graph
            with RoIAlign of 7 x 7 and of 14 x 14 was given one's shape for the other, in two of a dozen runs of all
            tests and never alone.
        writes: for each input, whether it is a parameter that the operator writes; MindSpore has to know that too.
    """

    def __init__(self, *args, attributes=None, writes: Sequence[bool] = (), **kwargs):
        super().__init__(*args, **kwargs)
        if writes:
            kinds = [sig.sig_rw.RW_WRITE if write else sig.sig_rw.RW_READ for write in writes]
            self.set_signatures(tuple(sig.make_sig(f"input{k}", kind) for k, kind in enumerate(kinds)))
            self.add_prim_attr("side_effect_mem", True)
        for name, value in (attributes or {}).items():
            self.add_prim_attr(name, value)

    def __deepcopy__(self, memo):
        return self


@ops.constexpr
def in_graph_mode():
    return ms.get_context("mode") == ms.GRAPH_MODE

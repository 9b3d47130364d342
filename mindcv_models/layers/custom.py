"""Operators in C++ for the CPU, which only graph mode can run."""

import mindspore as ms
from mindspore import ops

__all__ = ["Loops", "in_graph_mode"]


class Loops(ops.Custom):
    """An operator of our own, which copies of a cell share: MindSpore cannot copy it.

    In graph mode only: eagerly, MindSpore starts such an operator before its inputs have been computed.
    """

    def __deepcopy__(self, memo):
        return self


@ops.constexpr
def in_graph_mode():
    return ms.get_context("mode") == ms.GRAPH_MODE

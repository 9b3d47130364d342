"""Clipping of gradients by their global norm."""

from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import backend
from ..layers.custom import Loops, are_single, in_graph_mode
from .tensors import scaled

__all__ = ["GlobalNormClip"]

_SOURCE = Path(__file__).with_name("updates.cc")


class GlobalNormClip(nn.Cell):
    """Gradients, a tuple of tensors, scaled to a global norm of ``largest`` if theirs is larger.

    On the CPU that is one operator for all of them, if they are float32; with MindSpore's, three for each, the norm
    alone takes 20 ms for FastViT-T8.
    """

    def __init__(self, largest: float):
        super().__init__(auto_prefix=False)
        self.largest = Tensor(largest, ms.float32)
        self.map = ops.HyperMap()
        library = backend.compile_library(_SOURCE)
        self.loops = None
        if library is not None:
            self.loops = Loops(f"{library}:clip", lambda _, *shapes: shapes, lambda _, *kinds: kinds, "aot")

    def construct(self, gradients):
        if self.loops is not None and in_graph_mode() and are_single(gradients):
            return self.loops(self.largest, *gradients)
        norm = ops.sqrt(ops.stack(self.map(square_sum, gradients)).sum())
        return scaled(gradients, self.largest / ops.maximum(norm, self.largest))


def square_sum(tensor):
    return ops.square(tensor.astype(ms.float32)).sum()

"""Greedy non-maximum suppression with a fixed number of rows, within a graph."""

from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["NMS"]

_SOURCE = Path(__file__).with_name("nms.cc")


class NMS(nn.Cell):
    """Which boxes stay: ``(B, R, 4)`` to ``(B, R)``, float32 of 1 and 0; the rows of each image compete.

    Rows come in descending order of score. A box is dropped if its intersection with one that stays is more than
    ``threshold`` of their union; boxes of no area are never dropped. On GPU and Ascend an image can have up to 2,864
    rows. There is no gradient.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = Tensor([threshold], ms.float32)
        library = backend.compile_library(_SOURCE)
        self.loops = None
        if library is not None:
            self.loops = Loops(f"{library}:suppress", lambda boxes, _: boxes[:2], lambda boxes, _: boxes, "aot")
        self.one_image = ops.NMSWithMask(threshold)

    def construct(self, boxes):
        boxes = ops.stop_gradient(boxes.astype(ms.float32))
        if self.loops is not None and in_graph_mode():
            return ops.stop_gradient(self.loops(boxes, self.threshold))
        b, r, _ = boxes.shape
        places = ops.arange(r, 0, -1).astype(ms.float32).reshape(r, 1)  # as scores: they keep the order
        kept = [self.one_image(ops.concat((boxes[i], places), 1))[2].astype(ms.float32) for i in range(b)]
        return ops.stop_gradient(ops.stack(kept))

"""3x3 convolutions with fewer multiplications, on the CPU (Lavin and Gray, CVPR 2016, arXiv:1509.09308).

Tiles of 2x2 outputs are transformed, so that each costs 16 products of channels instead of 36; transforms are loops in
C++, and the products one batched matrix product. Sums are taken in another order than a convolution's, so that results
differ from it by some 1e-6 of their size.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

__all__ = ["Winograd"]

TILE, POINTS = 2, 16

_SOURCE = Path(__file__).with_name("winograd.cc")
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


class Winograd(nn.Cell):
    """Maps ``(B, H, W, C)``, a kernel ``(D, C, 3, 3)`` and a bias ``(D,)`` to ``relu(convolution)``, ``(B, H, W, D)``.

    All in float32, padded by 1; there is no gradient.

    Attributes:
        loops: None where the back end has no such form.
    """

    keeps_float32 = True

    def __init__(self):
        super().__init__()
        library = backend.compile_library(_SOURCE)
        self.kernel = Tensor(np.kron(_KERNEL, _KERNEL).astype(np.float32))  # (16, 9)
        self.loops = None
        if library is not None:
            self.loops = Loops(f"{library}:winograd_input", _tiles, lambda x: x, "aot")
            self.outputs = Loops(
                f"{library}:winograd_output", lambda p, _, x: [*x[:3], p[2]], lambda p, *_: p, "aot"
            )  # fmt: skip

    def runs(self, training: bool) -> bool:
        """Whether it can be used in the graph that is compiled."""
        return self.loops is not None and not training and in_graph_mode()

    def construct(self, x, weight, bias):
        d, c, _, _ = weight.shape
        kernel = ops.matmul(self.kernel, weight.astype(ms.float32).transpose(2, 3, 1, 0).reshape(9, c * d))
        products = ops.matmul(self.loops(x.astype(ms.float32)), kernel.reshape(POINTS, c, d))
        return self.outputs(products, bias.astype(ms.float32), x)


def _tiles(shape):
    b, h, w, c = shape
    return [POINTS, b * (-(-h // TILE)) * (-(-w // TILE)), c]

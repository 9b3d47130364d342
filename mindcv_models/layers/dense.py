"""Linear layers that MindSpore compiles fast, and that are fast on the CPU."""

import mindspore as ms
from mindspore import nn, ops

from .custom import in_graph_mode
from .products import no_bias, products

__all__ = ["Dense", "Pointwise"]


@ops.constexpr
def _with_channels(shape, channels):
    return (*(-1 if side is None else side for side in shape[:-1]), channels)  # None: a batch of any size


class Dense(nn.Dense):
    """``nn.Dense`` without activation, ``(..., in_channels)`` to ``(..., out_channels)``: the same operators.

    MindSpore's compiler makes a function of either side of a branch and of what follows it: nine of one ``nn.Dense``,
    which asks for the number of axes. Meant for more than two of them; with two it reshapes for nothing. On the CPU,
    in graph mode, product and bias are one operator in C++.
    """

    def __init__(self, in_channels: int, out_channels: int, weight_init=None, bias_init=None, has_bias: bool = True):
        super().__init__(in_channels, out_channels, weight_init, bias_init, has_bias)
        self.loops = products("products.cc", "dense")
        self.no_bias = None if has_bias else no_bias(out_channels)

    def construct(self, x):
        if self.loops is not None and in_graph_mode():
            bias = self.bias if self.has_bias else self.no_bias
            out = self.loops(x.astype(ms.float32), self.weight.astype(ms.float32), bias.astype(ms.float32))
            return out.astype(x.dtype)
        out = self.matmul(self.reshape(x, (-1, self.in_channels)), self.weight)
        if self.has_bias:
            out = self.bias_add(out, self.bias)
        return self.reshape(out, _with_channels(x.shape, self.out_channels))


class Pointwise(nn.Dense):
    """A linear layer over the channels of a map, with the weight of one: ``(B, in_channels, H, W)`` to
    ``(B, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, out_channels: int, weight_init=None, bias_init=None):
        super().__init__(in_channels, out_channels, weight_init, bias_init)
        self.loops = products("products.cc", "pointwise")
        self.conv2d = ops.Conv2D(out_channels, (1, 1))  # the function checks its arguments in a dozen branches

    def construct(self, x):
        if self.loops is not None and in_graph_mode():
            weight, bias = self.weight.astype(ms.float32), self.bias.astype(ms.float32)
            return self.loops(x.astype(ms.float32), weight, bias).astype(x.dtype)
        weight = self.weight.reshape(self.out_channels, self.in_channels, 1, 1)
        return self.conv2d(x, weight) + self.bias.reshape(-1, 1, 1)

"""A linear layer that MindSpore compiles fast."""

from mindspore import nn, ops

__all__ = ["Dense"]


@ops.constexpr
def _with_channels(shape, channels):
    return (*(-1 if side is None else side for side in shape[:-1]), channels)  # None: a batch of any size


class Dense(nn.Dense):
    """``nn.Dense`` without activation, ``(..., in_channels)`` to ``(..., out_channels)``: the same operators.

    MindSpore's compiler makes a function of either side of a branch and of what follows it: nine of one ``nn.Dense``,
    which asks for the number of axes. Meant for more than two of them; with two it reshapes for nothing.
    """

    def __init__(self, in_channels: int, out_channels: int, weight_init=None, bias_init=None, has_bias: bool = True):
        super().__init__(in_channels, out_channels, weight_init, bias_init, has_bias)

    def construct(self, x):
        out = self.matmul(self.reshape(x, (-1, self.in_channels)), self.weight)
        if self.has_bias:
            out = self.bias_add(out, self.bias)
        return self.reshape(out, _with_channels(x.shape, self.out_channels))

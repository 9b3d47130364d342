"""Parameters and multiply-accumulates of a network, for any of the families."""

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from .layers import DeformableConv2d

__all__ = ["Profile", "profile"]


@dataclass(frozen=True)
class Profile:
    """What a network costs for one image: learnable parameters and multiply-accumulates ("FLOPs" in most papers)."""

    parameters: int
    flops: int


def profile(network: nn.Cell, height: int, width: int, in_channels: int = 3) -> Profile:
    """Count what ``network`` costs for one image of ``height`` x ``width``.

    A network with a ``flops(height, width)`` method counts as its authors do. Of any other the convolutions, linear
    layers and products of attention are counted, by running it once in PyNative mode; element-wise work is not.
    """
    parameters = sum(parameter.size for parameter in network.trainable_params())
    if hasattr(network, "flops"):
        return Profile(parameters, network.flops(height, width))
    return Profile(parameters, _count(network, (1, in_channels, height, width)))


def _count(network, shape):
    counts = []
    hooks = [
        cell.register_forward_hook(_counter(counts, name))
        for name, cell in network.cells_and_names()
        if isinstance(cell, (nn.Conv2d, nn.Dense, DeformableConv2d))
    ]
    mode, training = ms.get_context("mode"), network.training
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        network.set_train(False)(ops.zeros(shape, ms.float32))
    finally:
        for hook in hooks:
            hook.remove()
        network.set_train(training)
        ms.set_context(mode=mode)
    return sum(counts)


def _counter(counts, name):
    def count(cell, inputs, output):
        x = inputs[0]
        if not isinstance(cell, nn.Dense):
            counts.append(output.shape[2] * output.shape[3] * output.shape[0] * cell.weight.size)
            return
        counts.append(x.size // cell.in_channels * cell.weight.size)
        if name.endswith(".qkv"):  # its sequences (B, N, C) attend to themselves: q times k, and the scores times v
            counts.append(2 * x.size * x.shape[1])

    return count

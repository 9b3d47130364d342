"""Operators in C++ for layers that multiply by a weight and add a bias, on the CPU."""

import functools
from pathlib import Path
from typing import Optional

import numpy as np
from mindspore import Tensor, ops

from .. import backend
from .custom import Loops

__all__ = ["depthwise", "no_bias", "normalized", "products"]

_FOLDER = Path(__file__).parent


def products(source: str, name: str, stride: int = 1) -> Optional[Loops]:
    """An operator of a source of this folder, or None where the back end has none.

    It maps ``x``, a weight ``(D, ...)`` and a bias ``(D,)`` to the result: ``"dense"`` maps tokens ``(..., C)`` to
    ``(..., D)``, others maps ``(B, C, H, W)`` to a map with every ``stride``-th row and column. The gradient of ``x``
    is an operator of its own beside that of weight and bias, so that one that nobody asks for is not computed.
    """
    library = backend.compile_library(_FOLDER / source)
    return library and _products(library, name, stride)


@functools.cache
def _products(library, name, stride):
    def gradients(x, weight, bias, out, dout):
        return (to_x(dout, weight, x), *to_weight(x, dout, weight))

    to_x = Loops(f"{library}:{name}_gradient", lambda _, __, x: x, lambda dout, *_: dout, "aot")
    to_weight = Loops(
        f"{library}:{name}_weight_gradient", lambda _, __, weight: (weight, weight[:1]), lambda x, *_: (x, x), "aot"
    )
    shape = _shape_of_tokens if name == "dense" else _shape(stride)
    return Loops(f"{library}:{name}", shape, lambda x, *_: x, "aot", bprop=gradients)


def depthwise(size: int, stride: int) -> Optional[Loops]:
    """As :func:`products`, for depthwise convolutions with a kernel of ``size`` and ``stride``."""
    library = backend.compile_library(_FOLDER / "depthwise.cc")
    return library and _depthwise(library, f"{size}_{stride}", stride)


@functools.cache
def _depthwise(library, form, stride):
    def gradients(x, weight, bias, out, dout):
        return differentiate(x, weight, dout)

    differentiate = Loops(
        f"{library}:differentiate_{form}",
        lambda x, weight, _: (x, weight, weight[:1]), lambda x, weight, _: (x, weight, weight), "aot",
    )  # fmt: skip
    return Loops(f"{library}:convolve_{form}", _shape(stride), lambda x, *_: x, "aot", bprop=gradients)


@functools.cache
def normalized(convolve: Loops) -> Optional[Loops]:
    """A 3x3 or depthwise convolution and, in evaluation, the batch normalisation after it in one operator.

    It takes what the convolution takes, then gain, shift, running mean and variance, ``(D,)``, and momentum and
    epsilon, ``(2,)``. None for the other operators of this module.
    """
    library, name = convolve.func.rsplit(":", 1)
    if not name.startswith("convolve_"):
        return None
    differentiate = ops.GradOperation(get_all=True, sens_param=True)

    def folded(x, weight, bias):
        return convolve(x, weight, bias)

    def gradients(x, weight, bias, gain, shift, mean, variance, settings, out, dout):
        deviation = ops.rsqrt(variance + settings[1])
        factor = gain * deviation
        wide = factor.reshape(-1, 1, 1, 1)
        to_x, to_folded, to_shift = differentiate(folded)(x, weight * wide, (bias - mean) * factor + shift, dout)
        to_bias = to_shift * factor
        to_factor = (to_folded * weight).sum((1, 2, 3)) + to_shift * (bias - mean)
        to_variance = to_factor * gain * deviation**3 * -0.5
        to_norm = to_factor * deviation, to_shift, -to_bias, to_variance, ops.zeros_like(settings)
        return to_x, to_folded * wide, to_bias, *to_norm

    return Loops(
        f"{library}:{name.replace('convolve', 'normalized')}", _shape(int(name[-1])), lambda x, *_: x, "aot",
        bprop=gradients,
    )  # fmt: skip


def _shape(stride):
    def shape(x, weight, *_):
        return x[0], weight[0], *((side - 1) // stride + 1 for side in x[2:])

    return shape


def _shape_of_tokens(x, weight, *_):
    return *x[:-1], weight[0]


def no_bias(outputs: int) -> Tensor:
    return Tensor(np.zeros(outputs, np.float32))

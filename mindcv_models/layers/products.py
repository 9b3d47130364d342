"""Operators in C++ for layers that multiply by a weight and add a bias, on the CPU."""

import functools
from pathlib import Path
from typing import Optional

import numpy as np
from mindspore import Tensor

from .. import backend
from .custom import Loops

__all__ = ["depthwise", "no_bias", "products"]

_FOLDER = Path(__file__).parent


def products(source: str, name: str, stride: int = 1) -> Optional[Loops]:
    """An operator of a source of this folder, or None where the back end has none.

    It maps ``x``, a weight ``(D, ...)`` and a bias ``(D,)`` to the result: ``(N, D)`` for ``(N, C)``, and for maps
    ``(B, C, H, W)`` a map with every ``stride``-th row and column. The gradient of ``x`` is an operator of its own
    beside that of weight and bias, so that one that nobody asks for is not computed.
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
    return Loops(f"{library}:{name}", _shape(stride), lambda x, *_: x, "aot", bprop=gradients)


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


def _shape(stride):
    def shape(x, weight, _):
        return x[0], weight[0], *((side - 1) // stride + 1 for side in x[2:])

    return shape


def no_bias(outputs: int) -> Tensor:
    return Tensor(np.zeros(outputs, np.float32))

"""Activations that MindSpore offers, but too slowly on one of its back ends."""

import math

import mindspore as ms
from mindspore import nn, ops

from .. import backend

# erf(z) on [-4, 4] as z * P(z^2) / Q(z^2), highest power first; outside it is +-1 in float32.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def GELU() -> nn.Cell:  # noqa: N802, it stands for a class
    """The exact Gaussian error linear unit, ``x * Phi(x)`` (Hendrycks and Gimpel, 2016), on any shape.

    On the CPU the error function is a rational approximation, exact to 1.1e-6 and 20 to 35 times as fast there;
    elsewhere it is MindSpore's own operator.
    """
    return _RationalGELU() if backend.fuse_elementwise() else nn.GELU(approximate=False)


class _RationalGELU(nn.Cell):
    """GELU in arithmetic that graph kernels fuse; computed in float32 whatever the input's type."""

    def construct(self, x):
        wide = x.astype(ms.float32)
        return (wide * _normal_cdf(wide)).astype(x.dtype)

    def bprop(self, x, out, dout):
        wide = x.astype(ms.float32)
        density = ops.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
        slope = _normal_cdf(wide) + wide * density
        return ((dout.astype(ms.float32) * slope).astype(x.dtype),)


def _normal_cdf(x):
    """Phi(x) = (1 + erf(x / sqrt(2))) / 2."""
    z = ops.minimum(ops.maximum(x * math.sqrt(0.5), -4.0), 4.0)
    square = z * z
    return 0.5 + 0.5 * (z * _polynomial(square, _ERF_P) / _polynomial(square, _ERF_Q))


def _polynomial(x, coefficients):
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value

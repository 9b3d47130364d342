"""The layers' values and gradients, against float64 references and MindSpore's own operators."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from scipy import special

from mindcv_models.layers import GELU, StripConv2d
from mindcv_models.layers.activation import _RationalGELU


@pytest.fixture(params=[0, 1], ids=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


def _gelu(x):
    return 0.5 * x * special.erfc(-x / np.sqrt(2))


def _gelu_slope(x):
    return 0.5 * special.erfc(-x / np.sqrt(2)) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("cell", [GELU, _RationalGELU])
def test_gelu_is_exact_in_value_and_gradient(mode, cell):
    x = np.concatenate([np.linspace(-8, 8, 40001), [-1e4, -50, 0, 50, 1e4]]).astype(np.float32)
    wide = x.astype(np.float64)
    value = cell()(ms.Tensor(x)).asnumpy()
    slope = ms.grad(cell())(ms.Tensor(x)).asnumpy()
    small = np.abs(wide) < 10
    assert np.abs(value - _gelu(wide))[small].max() < 1.2e-6
    assert np.abs(slope - _gelu_slope(wide)).max() < 2e-6
    np.testing.assert_allclose(value[~small], np.maximum(wide, 0)[~small], rtol=1e-6, atol=1e-2)


def test_gelu_computes_in_float32_whatever_the_type(mode):
    x = np.linspace(-6, 6, 1001).astype(np.float16)
    out = _RationalGELU()(ms.Tensor(x))
    assert out.dtype == ms.float16
    np.testing.assert_array_equal(
        out.asnumpy(), _RationalGELU()(ms.Tensor(x.astype(np.float32))).asnumpy().astype("f2")
    )


class _Weighted(nn.Cell):
    def __init__(self, cell, weights):
        super().__init__()
        self.cell, self.weights = cell, weights

    def construct(self, x):
        return ops.sum(self.cell(x) * self.weights)


@pytest.mark.parametrize(
    ("size", "stride", "multiplier", "kernel"),
    [((16, 16), 1, 1, 7), ((9, 13), 1, 1, 7), ((37, 20), 1, 2, 7), ((32, 32), 2, 2, 7), ((35, 11), 2, 1, 7),
     ((1, 1), 1, 1, 7), ((2, 3), 2, 2, 7), ((18, 18), 1, 1, 9)],
)  # fmt: skip
def test_strips_equal_the_plain_convolution(mode, size, stride, multiplier, kernel):
    rng = np.random.default_rng(0)
    arguments = {"pad_mode": "pad", "padding": kernel // 2, "group": 4, "has_bias": True}
    plain = nn.Conv2d(4, 4 * multiplier, kernel, stride, **arguments)
    strips = StripConv2d(4, 4 * multiplier, kernel, stride, **arguments)
    for mine, reference in zip(strips.get_parameters(), plain.get_parameters()):
        assert (mine.name, mine.shape) == (reference.name, reference.shape)
        mine.set_data(reference)
    x = ms.Tensor(rng.standard_normal((2, 4, *size)).astype(np.float32))
    weights = ms.Tensor(rng.standard_normal(plain(x).shape).astype(np.float32))

    outcomes = []
    for conv in (strips, plain):
        step = ms.value_and_grad(_Weighted(conv, weights), 0, conv.trainable_params())
        _, (to_input, to_parameters) = step(x)
        outcomes.append([conv(x), to_input, *to_parameters])
    for mine, reference in zip(*outcomes):
        assert mine.shape == reference.shape
        np.testing.assert_allclose(mine.asnumpy(), reference.asnumpy(), rtol=1e-4, atol=1e-4)

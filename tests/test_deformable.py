"""Deformable convolution against the official operator, MindSpore's own, and its definition."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindcv_models import backend
from mindcv_models.layers import DeformableConv2d, deformable_conv2d
from mindcv_models.layers.deformable import _SOURCE, DeformByLoops
from tests.helpers import parity

CASES = [case for case in parity.cases("litv2") if case["kind"] == "deform_conv2d"]
TOLERANCE = 1e-5  # absolute; the specification's, where the reference's own two precisions differ by up to 6e-6


class Deform(nn.Cell):
    def __init__(self, stride, padding, dilation=1, groups=1):
        super().__init__()
        self.options = [(stride, stride), (padding, padding), (dilation, dilation), groups]

    def construct(self, x, offset, weight, bias):
        return deformable_conv2d(x, offset, weight, bias, *self.options)


class BuiltIn(nn.Cell):
    """MindSpore's operator, whose offsets are all x, then all y, then a mask."""

    def __init__(self, stride, padding, dilation=1):
        super().__init__()
        self.strides, self.pads, self.dilations = (1, 1, stride, stride), (padding,) * 4, (1, 1, dilation, dilation)

    def construct(self, x, offset, weight, bias):
        size = weight.shape[2:]
        pairs = offset.reshape(offset.shape[0], -1, 2, *offset.shape[2:])
        moved = ops.concat((pairs[:, :, 1], pairs[:, :, 0], ops.ones_like(pairs[:, :, 0])), 1)
        return ops.deformable_conv2d(x, weight, moved, size, self.strides, self.pads, bias, self.dilations)


def by_loops(kernel, stride, padding, dilation=1):
    library = backend.compile_library(_SOURCE)
    assert library
    return DeformByLoops(library, *((side, side) for side in (kernel, stride, padding, dilation)))


class Gradients(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.gradient = ops.GradOperation(get_all=True, sens_param=True)(cell)

    def construct(self, *inputs):
        return self.gradient(*inputs)


def by_definition(x, offset, weight, bias, stride, padding, dilation, groups):
    """The rules of the specification as scalar loops, in float64."""
    b, c, h, w = x.shape
    d, depth, kh, kw = weight.shape
    _, moves, ho, wo = offset.shape
    fields = moves // (2 * kh * kw)

    def pixel(n, channel, row, column):
        return x[n, channel, row, column] if 0 <= row < h and 0 <= column < w else 0.0

    out = np.zeros((b, d, ho, wo))
    for n, o, i, j in np.ndindex(b, d, ho, wo):
        total = float(bias[o])
        for k, r, s in np.ndindex(depth, kh, kw):
            channel = o // (d // groups) * depth + k
            at = (channel // (c // fields) * kh * kw + r * kw + s) * 2
            y = i * stride - padding + r * dilation + float(offset[n, at, i, j])
            z = j * stride - padding + s * dilation + float(offset[n, at + 1, i, j])
            if not (-1 < y < h and -1 < z < w):
                continue
            top, left = int(np.floor(y)), int(np.floor(z))
            fy, fz = y - top, z - left
            value = (1 - fy) * ((1 - fz) * pixel(n, channel, top, left) + fz * pixel(n, channel, top, left + 1))
            value += fy * ((1 - fz) * pixel(n, channel, top + 1, left) + fz * pixel(n, channel, top + 1, left + 1))
            total += float(weight[o, k, r, s]) * value
        out[n, o, i, j] = total
    return out


def random_inputs(shape, out_channels, kernel, stride, padding=0, dilation=1, groups=1, fields=1, reach=3.0, seed=0):
    rng = np.random.RandomState(seed)
    b, c, h, w = shape
    ho, wo = ((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in (h, w))
    offset = rng.uniform(-reach, reach, (b, 2 * kernel**2 * fields, ho, wo))
    weight = rng.standard_normal((out_channels, c // groups, kernel, kernel)) / kernel
    arrays = (rng.standard_normal(shape), offset, weight, rng.standard_normal(out_channels))
    return [ms.Tensor(array.astype(np.float32)) for array in arrays], (b, out_channels, ho, wo)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        pytest.param(Deform, ms.GRAPH_MODE, id="graph"),
        pytest.param(Deform, ms.PYNATIVE_MODE, id="pynative"),
        pytest.param(BuiltIn, ms.GRAPH_MODE, id="MindSpore's"),
        pytest.param(BuiltIn, ms.PYNATIVE_MODE, id="MindSpore's, pynative"),
        pytest.param(None, ms.GRAPH_MODE, id="loops"),
    ],
)
def test_output_and_gradients_equal_the_official_operator(case, mode, form):
    ms.set_context(mode=mode)
    reference = parity.reference("litv2", case)
    inputs = [ms.Tensor(reference[name]) for name in ("input", "offset", "weight", "bias")]
    geometry = case["kwargs"]["stride"], case["kwargs"]["padding"]
    cell = form(*geometry) if form else by_loops(reference["weight"].shape[-1], *geometry)
    np.testing.assert_allclose(cell(*inputs).asnumpy(), reference["output"], rtol=0, atol=TOLERANCE)
    gradients = Gradients(cell)(*inputs, ms.Tensor(reference["grad_output"]))
    for name, gradient in zip(("input", "offset", "weight", "bias"), gradients):
        np.testing.assert_allclose(gradient.asnumpy(), reference[f"grad_{name}"], rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "fields"),
    [
        (2, 2, 0, 1, 1, 1),
        (3, 1, 1, 1, 1, 1),
        (3, 2, 2, 2, 1, 1),
        (3, 1, 1, 1, 2, 1),
        (2, 1, 0, 1, 1, 2),
        (1, 1, 0, 1, 4, 2),
    ],
)
def test_every_geometry_equals_the_definition(kernel, stride, padding, dilation, groups, fields):
    inputs, _ = random_inputs((2, 4, 6, 7), 4, kernel, stride, padding, dilation, groups, fields)
    expected = by_definition(*[t.asnumpy() for t in inputs], stride, padding, dilation, groups)
    out = Deform(stride, padding, dilation, groups)(*inputs).asnumpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)
    if groups == 1:
        out = by_loops(kernel, stride, padding, dilation)(*inputs).asnumpy()
        np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dilation", "fields", "reach"),
    [((2, 70, 9, 12), 2, 2, 0, 1, 1, 3.0), ((1, 6, 7, 5), 3, 1, 1, 1, 2, 4.0), ((3, 4, 8, 8), 3, 2, 2, 2, 4, 1e12)],
)
def test_loops_have_the_gradients_of_the_plain_form(shape, kernel, stride, padding, dilation, fields, reach):
    inputs, out_shape = random_inputs(shape, 5, kernel, stride, padding, dilation, fields=fields, reach=reach)
    sens = ms.Tensor(np.random.RandomState(1).standard_normal(out_shape).astype(np.float32))
    cells = by_loops(kernel, stride, padding, dilation), Deform(stride, padding, dilation)
    for gradient, other in zip(*(Gradients(cell)(*inputs, sens) for cell in cells), strict=True):
        scale = np.abs(other.asnumpy()).max()
        np.testing.assert_allclose(gradient.asnumpy(), other.asnumpy(), rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("reach", [0.0, 0.5, 4.0, 1e12])
def test_the_two_forms_agree_on_a_whole_stage(reach):
    inputs, shape = random_inputs((2, 32, 28, 28), 64, 2, 2, reach=reach)
    forms = [Deform(2, 0), BuiltIn(2, 0)]
    out, expected = (form(*inputs).asnumpy() for form in forms)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
    if reach > 100:
        return  # there the built-in operator converts a float beyond int32
    sens = ms.Tensor(np.random.RandomState(1).standard_normal(shape).astype(np.float32))
    gradients = [Gradients(form)(*inputs, sens) for form in forms]
    for gradient, other in zip(*gradients):
        scale = np.abs(other.asnumpy()).max()
        np.testing.assert_allclose(gradient.asnumpy(), other.asnumpy(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("form", [lambda: Deform(1, 0), lambda: by_loops(1, 1, 0)], ids=["plain", "loops"])
def test_a_sample_one_pixel_outside_gives_no_gradient(form):
    x = ms.Tensor(np.ones((1, 1, 3, 3), np.float32))
    offset = np.zeros((1, 2, 3, 3), np.float32)
    offset[0, 0, 0] = -1  # the first row of samples lies exactly on row -1
    inputs = (x, ms.Tensor(offset), ms.Tensor(np.ones((1, 1, 1, 1), np.float32)), ms.Tensor(np.zeros(1, np.float32)))
    gradients = Gradients(form())(*inputs, ms.Tensor(np.ones((1, 1, 3, 3), np.float32)))
    assert not gradients[1].asnumpy()[0, :, 0].any()
    assert gradients[1].asnumpy()[0, 0, 2].tolist() == [-1, -1, -1]  # towards the zeros below the last row


def test_without_offsets_it_is_an_ordinary_convolution():
    cell = DeformableConv2d(8, 16, 2, stride=2)
    x = ms.Tensor(np.random.RandomState(0).standard_normal((2, 8, 9, 12)).astype(np.float32))
    expected = ops.conv2d(x, cell.weight, cell.bias, stride=2).asnumpy()
    assert expected.shape == (2, 16, 4, 6)
    np.testing.assert_allclose(cell(x).asnumpy(), expected, rtol=0, atol=1e-5)


def test_half_precision_is_computed_in_single():
    inputs, _ = random_inputs((1, 4, 8, 8), 4, 2, 2)
    half = [t.astype(ms.float16) for t in inputs]
    expected = Deform(2, 0)(*[t.astype(ms.float32) for t in half]).asnumpy()
    out = Deform(2, 0)(*half)
    assert out.dtype == ms.float16
    np.testing.assert_array_equal(out.asnumpy(), expected.astype(np.float16))

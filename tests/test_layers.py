"""The layers' values and gradients, against float64 references and MindSpore's own operators."""

import copy
import math
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
import torch
from mindcv.utils.amp import auto_mixed_precision
from mindspore import nn, ops
from scipy import special

from mindcv_models import backend
from mindcv_models.graph import capture
from mindcv_models.layers import (
    GELU,
    BatchNorm2d,
    ChannelNorm,
    Conv2d,
    CrossAttention,
    Dense,
    Enlarge,
    FusedMLP,
    GlobalAvgPool,
    LayerNorm,
    LoopConv2d,
    PixelSums,
    Pointwise,
    ResizeLike,
    ScaledResidual,
    SelfAttention,
    WindowAttention,
    WindowMeans,
    activation,
    conv_norm,
    joint_norms,
    products,
    resize,
)
from mindcv_models.layers.activation import LoopGELU
from mindcv_models.layers.convolution import FusibleConv2d
from mindcv_models.training.updates import update_operator


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


def _unrounded(error, expected):
    """What an error has beside the rounding of its result to float32."""
    return np.maximum(error - np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64) / 2, 0)


def test_gelu_is_exact_in_value_and_gradient():
    gelu = GELU()
    assert type(gelu) is LoopGELU
    x = np.concatenate([np.linspace(-15, 15, 200_003), [-1e30, -1e4, -50, 0, 50, 1e4, 1e30]]).astype(np.float32)
    wide = x.astype(np.float64)
    value, slope = gelu(ms.Tensor(x)).asnumpy(), ms.grad(gelu)(ms.Tensor(x)).asnumpy()
    error = np.abs(value - _gelu(wide))
    assert error[np.abs(x) < 4].max() < 1.5e-7
    assert _unrounded(error, _gelu(wide)).max() < 5e-8
    assert np.abs(slope - _gelu_slope(wide)).max() < 1.5e-7


def test_gelu_in_its_portable_form_is_the_same_function(mode):
    x = np.linspace(-8, 8, 40001).astype(np.float32)
    with backend.portable_form():
        gelu = GELU()
    assert type(gelu) is nn.GELU
    for cell in (gelu, GELU()):
        assert np.abs(cell(ms.Tensor(x)).asnumpy() - _gelu(x.astype(np.float64))).max() < 1e-6
        assert np.abs(ms.grad(cell)(ms.Tensor(x)).asnumpy() - _gelu_slope(x.astype(np.float64))).max() < 1e-6


def test_gelu_hands_on_what_is_not_finite():
    gelu, x = GELU(), ms.Tensor([np.nan, np.inf, -np.inf], ms.float32)
    np.testing.assert_allclose(gelu(x).asnumpy(), [np.nan, np.inf, 0], atol=1e-30)
    np.testing.assert_allclose(ms.grad(gelu)(x).asnumpy(), [np.nan, 1, 0], atol=1e-30)


@pytest.mark.parametrize("shape", [(), (1,), (63,), (65, 3), (5, 7, 33, 31)])
def test_gelu_of_a_number_does_not_depend_on_where_it_stands(shape):
    gelu, gradient = GELU(), ms.grad(GELU())
    x = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    part = ms.Tensor(x[-math.prod(shape) :].reshape(shape))
    for function in (gelu, gradient):
        found = function(part).asnumpy()
        assert found.shape == shape
        np.testing.assert_array_equal(found.ravel(), function(ms.Tensor(x)).asnumpy()[-found.size :])


def test_gelu_computes_in_float32_whatever_the_type():
    gelu = GELU()
    x = np.linspace(-6, 6, 1001).astype(np.float16)
    out = gelu(ms.Tensor(x))
    assert out.dtype == ms.float16
    np.testing.assert_array_equal(out.asnumpy(), gelu(ms.Tensor(x.astype(np.float32))).asnumpy().astype("f2"))


class _Weighted(nn.Cell):
    def __init__(self, cell, weights):
        super().__init__()
        self.cell, self.weights = cell, weights

    def construct(self, x):
        return ops.sum(self.cell(x) * self.weights)


def outcomes(cell, x, weights):
    """The value of ``cell``, and the gradients of its weighted sum by ``x`` and by each parameter."""
    _, (to_input, to_parameters) = ms.value_and_grad(_Weighted(cell, weights), 0, cell.trainable_params())(x)
    return [result.asnumpy() for result in (cell(x), to_input, *to_parameters)]


def assert_same(cell, reference, x, tolerance=1e-5):
    """Two cells with the same parameters have the same values and gradients, each within a share of the largest."""
    for mine, other in zip(cell.get_parameters(), reference.get_parameters()):
        assert (mine.name, mine.shape) == (other.name, other.shape)
        mine.set_data(other)
    x = ms.Tensor(x.astype(np.float32))
    weights = ms.Tensor(np.random.default_rng(1).standard_normal(reference(x).shape).astype(np.float32))
    for mine, other in zip(outcomes(cell, x, weights), outcomes(reference, x, weights)):
        assert mine.shape == other.shape
        assert np.isfinite(mine).all()
        assert np.abs(mine - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 1), (7, 2)])
@pytest.mark.parametrize(
    ("size", "multiplier", "has_bias"),
    [((16, 16), 1, True), ((9, 13), 1, False), ((37, 20), 2, True), ((35, 70), 3, False), ((1, 1), 1, True),
     ((2, 3), 2, True), ((4, 129), 1, False)],
)  # fmt: skip
def test_loops_equal_the_plain_depthwise_convolution(mode, size, kernel, stride, multiplier, has_bias):
    channels = (4, 4 * multiplier, kernel, stride)
    loops = Conv2d(*channels, group=4, has_bias=has_bias)
    assert type(loops) is LoopConv2d
    plain = nn.Conv2d(*channels, group=4, has_bias=has_bias, pad_mode="pad", padding=kernel // 2)
    assert_same(loops, plain, np.random.default_rng(0).standard_normal((2, 4, *size)))


# On both sides of every edge of the loops: lanes of 8 or 16, tiles, panels, strips, small maps that are put together;
# 3x3 convolutions of few channels or pixels, and those by Winograd's tiles, with one gradient or both.
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "size", "has_bias"),
    [(2, 8, 7, (9, 11), True), (1, 33, 50, (40, 8), False), (1, 17, 3, (1, 1), True), (3, 16, 24, (2, 5), True),
     (2, 8, 100, (16, 17), False), (1, 64, 9, (61, 50), True), (2, 10, 16, (7, 200), True), (5, 300, 11, (4, 4), True),
     (2, 16, 17, (12, 12), True), (2, 33, 50, (13, 19), False), (2, 64, 48, (61, 50), True)],
)  # fmt: skip
def test_loops_equal_the_plain_convolution(mode, kernel, stride, batch, inputs, outputs, size, has_bias):
    loops = Conv2d(inputs, outputs, kernel, stride, has_bias=has_bias)
    assert type(loops) is LoopConv2d
    plain = nn.Conv2d(inputs, outputs, kernel, stride, has_bias=has_bias, pad_mode="pad", padding=kernel // 2)
    assert_same(loops, plain, np.random.default_rng(0).standard_normal((batch, inputs, *size)))


@pytest.mark.parametrize(
    ("shape", "outputs", "has_bias"),
    [((3, 5), 7, True), ((2, 65, 33), 50, False), ((1, 1), 1, True), ((2, 3, 50, 300), 96, True), ((700, 16), 20, True),
     ((4, 520), 200, False)],
)  # fmt: skip
def test_a_linear_layer_equals_the_plain_one(mode, shape, outputs, has_bias):
    plain = nn.Dense(shape[-1], outputs, has_bias=has_bias, bias_init="uniform")
    x = np.random.default_rng(0).standard_normal(shape)
    assert_same(Dense(shape[-1], outputs, has_bias=has_bias), plain, x)


@pytest.mark.parametrize(("shape", "outputs"), [((2, 5, 3, 3), 7), ((1, 40, 17, 16), 33), ((3, 16, 1, 2), 50)])
def test_a_linear_layer_over_the_channels_of_a_map_equals_the_plain_one(mode, shape, outputs):
    class Plain(nn.Dense):
        def construct(self, x):
            return super().construct(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    plain = Plain(shape[1], outputs, bias_init="uniform")
    assert_same(Pointwise(shape[1], outputs), plain, np.random.default_rng(0).standard_normal(shape))


class Branch(nn.Cell):
    """Two linear layers with GELU between them as a scaled residual branch; one operator where ``fused`` says so."""

    def __init__(self, layer, channels, hidden, outputs, fused, is_scaled):
        super().__init__()
        self.fc1, self.fc2 = layer(channels, hidden), layer(hidden, outputs)
        scale = ms.Tensor(np.ones((outputs, 1, 1) if layer is Pointwise else outputs, np.float32))
        self.scale = ms.Parameter(scale) if is_scaled else scale
        self.skip = layer(channels, outputs)
        self.act, self.fused = GELU(), FusedMLP(pointwise=layer is Pointwise) if fused else None

    def construct(self, x):
        residual = self.skip(x)
        if self.fused is None:
            return residual + self.scale * self.fc2(self.act(self.fc1(x)))
        layers = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        return self.fused(x, *layers, self.scale, residual)


@pytest.mark.parametrize(
    ("layer", "shape", "hidden", "outputs"),
    [(Dense, (3, 50, 20), 33, 7), (Dense, (2, 3, 48), 144, 48), (Dense, (1, 520), 300, 16),
     (Pointwise, (2, 48, 9, 13), 144, 48), (Pointwise, (3, 20, 1, 1), 33, 7), (Pointwise, (2, 300, 15, 14), 130, 40)],
)  # fmt: skip
@pytest.mark.parametrize("is_scaled", [True, False], ids=["scaled", "not scaled"])
def test_a_branch_by_one_operator_is_the_layers_it_is_made_of(layer, shape, hidden, outputs, is_scaled):
    """Runs of columns within an image and over several, hidden numbers and channels in one part and in more."""
    channels = shape[1 if layer is Pointwise else -1]
    plain, fused = (Branch(layer, channels, hidden, outputs, fused, is_scaled) for fused in (False, True))
    assert fused.fused.runs(training=False) and not fused.fused.runs(training=True)
    for mine, other in zip(fused.get_parameters(), plain.get_parameters()):
        other.set_data(ms.Tensor(np.random.default_rng(2).standard_normal(other.shape).astype(np.float32)))
        mine.set_data(other)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected, found = (cell(ms.Tensor(x)).asnumpy() for cell in (plain, fused))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert_same(fused, plain, x, 2e-6)  # gradients too
    alone = np.concatenate([fused(ms.Tensor(x[i : i + 1])).asnumpy() for i in range(len(x))])
    np.testing.assert_array_equal(found, alone)


def test_loops_wait_for_what_comes_before(mode):
    cells = [nn.Conv2d(3, 64, 5)] + [
        cell for _ in range(4) for cell in (nn.Conv2d(64, 64, 3), Conv2d(64, 64, 3, group=64))
    ]
    chain = nn.SequentialCell(cells)
    x = ms.Tensor(np.random.default_rng(0).standard_normal((4, 3, 48, 48)).astype(np.float32))
    found = [chain(x).asnumpy() for _ in range(3)]
    for cell in cells:
        x = cell(x)
        x.asnumpy()
    for result in found:
        assert np.abs(result - x.asnumpy()).max() <= 1e-5 * np.abs(result).max()


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "group"),
    [(6, 6, 7, 1, 6), (8, 9, 3, 1, 1), (40, 33, 3, 1, 1), (8, 9, 3, 2, 1), (6, 50, 1, 1, 1)],
)  # fmt: skip
def test_loops_do_not_depend_on_the_batch(inputs, outputs, kernel, stride, group):
    conv = Conv2d(inputs, outputs, kernel, stride, group=group)
    x = np.random.default_rng(0).standard_normal((5, conv.in_channels, 11, 18)).astype(np.float32)
    alone = np.concatenate([conv(ms.Tensor(x[i : i + 1])).asnumpy() for i in range(5)])
    np.testing.assert_array_equal(conv(ms.Tensor(x)).asnumpy(), alone)


OUTCOMES = """
import hashlib
import mindspore as ms, numpy as np
from mindcv_models.layers import (
    GELU, BatchNorm2d, ChannelNorm, Conv2d, DeformableConv2d, Dense, Enlarge, LayerNorm, SelfAttention,
    WindowAttention, WindowMeans
)
from tests.test_layers import WeightedSums, outcomes
rng, digest = np.random.default_rng(0), hashlib.sha256()
def normal(shape):
    return ms.Tensor(rng.standard_normal(shape).astype(np.float32))
labels, factors = rng.integers(-1, 5, (2, 30, 17)).astype(np.int32), (1, np.ones(5), np.arange(5))
sums = WeightedSums(labels, *(np.array(each, np.float32) for each in (np.ones(5), *factors)))
for cell, shape in ((Conv2d(40, 33, 3), (2, 40, 30, 17)), (Conv2d(40, 33, 3, 2), (2, 40, 30, 17)),
                    (Conv2d(12, 33, 3), (2, 12, 30, 17)), (sums, (2, 5, 8, 9)),
                    (Conv2d(40, 33, 1), (3, 40, 9, 17)), (Dense(300, 70), (50, 300)),
                    (Conv2d(40, 40, 7, group=40), (2, 40, 9, 17)), (Conv2d(40, 80, 3, 2, group=40), (2, 40, 9, 17)),
                    (BatchNorm2d(40).set_train(), (3, 40, 9, 17)), (ChannelNorm(40), (3, 40, 9, 17)),
                    (LayerNorm(40), (300, 40)), (GELU(), (70, 301)), (Enlarge(), (3, 40, 9, 17)),
                    (DeformableConv2d(70, 9, 2, 2), (2, 70, 9, 17)), (SelfAttention(3, 0.3), (2, 130, 90)),
                    (WindowAttention(2, 0.3, 3), (2, 9, 12, 60)), (WindowMeans(3), (2, 9, 12, 60))):
    for parameter in cell.get_parameters():
        parameter.set_data(normal(parameter.shape))
    x = normal(shape)
    for outcome in outcomes(cell, x, normal(cell(x).shape)):
        digest.update(outcome.tobytes())
print(digest.hexdigest())
"""


def test_loops_do_not_depend_on_the_number_of_threads():
    found = [
        subprocess.run(
            [sys.executable, "-c", OUTCOMES], env={**os.environ, "OMP_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "3")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0]) == 65


CROWD = """
import ctypes, sys, threading
import numpy as np
gelu, rng = ctypes.CDLL(sys.argv[1]).gelu, np.random.default_rng(0)
def call(x):
    result, size = np.empty_like(x), ctypes.c_int64(x.size)
    tensors = (ctypes.c_void_p * 2)(x.ctypes.data, result.ctypes.data)
    shapes = (ctypes.POINTER(ctypes.c_int64) * 2)(*[ctypes.pointer(size)] * 2)
    gelu(2, tensors, (ctypes.c_int * 2)(1, 1), shapes, None, None, None)
    return result
def work(x, expected):
    results.extend(np.array_equal(call(x), expected) for _ in range(200))
results, inputs = [], [rng.standard_normal(size).astype(np.float32) for size in (50, 20_000, 90_001, 400_000)]
threads = [threading.Thread(target=work, args=(x, call(x))) for x in inputs for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(results), all(results))
"""


def test_loops_may_be_started_by_several_threads_at_once():
    library = backend.compile_library(activation._SOURCE)
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(library)], env={**os.environ, "OMP_NUM_THREADS": "3"}, capture_output=True,
        text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "1600 True\n"


class Resize(nn.Cell):
    def __init__(self, height, width, by_loops):
        super().__init__()
        self.size = height, width
        self.like = ms.Tensor(np.zeros((1, height, width), np.int32))
        self.resize = ResizeLike() if by_loops else None

    def construct(self, x):
        return resize(x, *self.size) if self.resize is None else self.resize(x, self.like)


@pytest.mark.parametrize(
    ("before", "after"),
    [((5, 7), (10, 14)), ((5, 7), (20, 28)), ((9, 4), (5, 11)), ((1, 3), (6, 1)), ((16, 16), (7, 7)), ((4, 5), (4, 5))],
)
def test_resizing_by_loops_equals_the_operator(mode, before, after):
    x = np.random.default_rng(0).standard_normal((2, 3, *before)).astype(np.float32)
    assert_same(Resize(*after, True), Resize(*after, False), x, 5e-6)  # the operator rounds places to float32
    if mode == ms.GRAPH_MODE:
        expected = torch.nn.functional.interpolate(torch.from_numpy(x).double(), after, mode="bilinear").numpy()
        np.testing.assert_allclose(Resize(*after, True)(ms.Tensor(x)).asnumpy(), expected, rtol=0, atol=5e-7)


def test_enlarging_doubles_the_sides(mode):
    x = ms.Tensor(np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32))
    np.testing.assert_allclose(Enlarge()(x).asnumpy(), resize(x, 10, 14).asnumpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "kernel", "stride"), [(1, 5, 1), (1, 3, 1), (1, 1, 2), (2, 3, 1), (4, 5, 1), (4, 3, 4), (2, 1, 1)]
)
@pytest.mark.parametrize(("has_bias", "training"), [(True, False), (True, True), (False, False)])
def test_other_convolutions_equal_the_plain_one(mode, group, kernel, stride, has_bias, training):
    own = Conv2d(4, 6 * group, kernel, stride, group=group, has_bias=has_bias).set_train(training)
    assert type(own) is FusibleConv2d
    options = {"group": group, "has_bias": has_bias, "pad_mode": "pad", "padding": kernel // 2, "bias_init": "ones"}
    plain = nn.Conv2d(4, 6 * group, kernel, stride, **options)
    assert_same(own, plain, np.random.default_rng(0).standard_normal((2, 4, 9, 10)))


def test_a_copy_of_loops_has_parameters_of_its_own():
    conv = Conv2d(4, 4, 3, group=4, has_bias=True)
    twin = copy.deepcopy(conv)
    x = ms.Tensor(np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32))
    before = conv(x).asnumpy()
    np.testing.assert_array_equal(twin(x).asnumpy(), before)
    twin.weight.set_data(ops.zeros_like(twin.weight))
    twin.bias.set_data(ops.ones_like(twin.bias))
    np.testing.assert_array_equal(twin(x).asnumpy(), np.ones((1, 4, 5, 5)))
    np.testing.assert_array_equal(conv(x).asnumpy(), before)


@pytest.mark.parametrize("damage", ["compiler", "library"])
def test_without_its_loops_a_convolution_is_plain_and_a_warning_says_so(damage, tmp_path, monkeypatch, caplog):
    assert backend.fuse_elementwise()
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path))
    source = tmp_path / "depthwise.cc"
    source.write_text("no C++" if damage == "compiler" else "int x;")
    if damage == "library":
        backend.library_of(source).write_bytes(b"no library")
    monkeypatch.setattr(products, "_FOLDER", tmp_path)
    assert type(Conv2d(4, 4, 3, group=4)) is FusibleConv2d
    (record,) = caplog.records
    assert record.getMessage().startswith("depthwise runs several times slower: ")
    assert len(list(tmp_path.iterdir())) == (1 if damage == "compiler" else 2)  # nothing half-made is left


def randomize(cell):
    rng = np.random.default_rng(2)
    for parameter in cell.get_parameters():
        parameter.set_data(ms.Tensor(rng.uniform(0.5, 2, parameter.shape).astype(np.float32)))
    return cell


class ConvNorm(nn.Cell):
    """A convolution and the batch normalisation after it, together where ``fused`` says so."""

    def __init__(self, conv, norm, fused):
        super().__init__()
        self.conv, self.norm, self.fused = conv, norm, fused

    def construct(self, x):
        return conv_norm(self.conv, self.norm, x) if self.fused else self.norm(self.conv(x))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "group", "one_operator"),
    [(6, 12, 7, 1, 6, True), (6, 6, 3, 2, 6, True), (6, 6, 1, 1, 6, True), (40, 33, 3, 1, 1, True),
     (8, 9, 3, 1, 1, True), (8, 9, 3, 2, 1, True), (3, 9, 3, 2, 1, False), (6, 50, 1, 1, 1, False)],
)  # fmt: skip
def test_a_convolution_and_its_norm_together_equal_them_apart(
    mode, inputs, outputs, kernel, stride, group, one_operator, has_bias
):
    form = {"group": group, "has_bias": has_bias}
    conv, eps = Conv2d(inputs, outputs, kernel, stride, **form), 1e-3
    assert (getattr(conv, "normalized", None) is not None) == one_operator
    plain = nn.Conv2d(inputs, outputs, kernel, stride, **form, pad_mode="pad", padding=kernel // 2)
    together = ConvNorm(conv, BatchNorm2d(outputs, eps), True).set_train(False)
    apart = randomize(ConvNorm(plain, nn.BatchNorm2d(outputs, eps, momentum=0.9), False)).set_train(False)
    x = np.random.default_rng(0).standard_normal((2, inputs, 13, 17))
    assert_same(together, apart, x)
    if mode == ms.GRAPH_MODE:
        operators = {node.primitive for node in capture(together, x.shape).nodes}
        assert operators.isdisjoint({"Rsqrt", "Mul", "Add"}) == one_operator


@pytest.mark.parametrize(
    ("level", "cells"), [("O1", "[nn.Conv2d]"), ("O1", "[nn.BatchNorm2d]"), ("O2", None), ("O3", None)]
)
def test_a_convolution_and_its_norm_run_in_mixed_precision(level, cells):
    """Either may be within a cell that casts, and has no attributes of its own then."""
    network = randomize(ConvNorm(Conv2d(8, 9, 3), BatchNorm2d(9), True)).set_train(False)
    x = ms.Tensor(np.random.default_rng(0).standard_normal((2, 8, 13, 17)).astype(np.float32))
    expected = network(x).asnumpy()
    mixed = copy.deepcopy(network)
    auto_mixed_precision(mixed, level, cells)
    found = mixed(x).asnumpy()
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0, atol=1e-2 * np.abs(expected).max())


def test_batch_norm_in_evaluation_equals_the_plain_one(mode):
    norm, plain = BatchNorm2d(5, eps=1e-4), randomize(nn.BatchNorm2d(5, eps=1e-4, momentum=0.9))
    assert type(norm) is not nn.BatchNorm2d
    x = np.random.default_rng(0).normal(3, 2, (3, 5, 6, 7))
    assert_same(norm.set_train(False), plain.set_train(False), x)


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (2, 5, 40, 33), (4, 5, 1, 1), (1, 5, 1, 3)])
def test_batch_norm_in_training_equals_the_plain_one(mode, shape):
    norm, plain = BatchNorm2d(5, eps=1e-4), randomize(nn.BatchNorm2d(5, eps=1e-4, momentum=0.9))
    assert_same(norm.set_train(True), plain.set_train(True), np.random.default_rng(0).normal(3, 2, shape))


def test_batch_norm_moves_its_statistics_once_a_step(mode):
    norm = randomize(BatchNorm2d(5)).set_train(True)
    mean, variance = (p.asnumpy().astype(np.float64) for p in (norm.moving_mean, norm.moving_variance))
    for step in range(2):
        x = np.random.default_rng(step).normal(3, 2, (3, 5, 6, 7)).astype(np.float32)
        outcomes(norm, ms.Tensor(x), ms.Tensor(x)) if step else norm(ms.Tensor(x))
        for _ in range(1 + step):  # "outcomes" is two steps: the value, and the value with its gradients
            mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3), np.float64)
            variance = 0.9 * variance + 0.1 * x.var((0, 2, 3), np.float64, ddof=1)
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), variance, rtol=1e-6)


@pytest.mark.parametrize(("level", "cells"), [("O1", "[nn.BatchNorm2d]"), ("O2", None), ("O3", None)])
def test_batch_norm_keeps_its_statistics_in_float32(level, cells):
    network = nn.SequentialCell(nn.Conv2d(3, 5, 3), BatchNorm2d(5))
    exact = copy.deepcopy(network).set_train(True)
    auto_mixed_precision(network, level, cells)
    x = ms.Tensor(np.random.default_rng(0).normal(3, 2, (3, 3, 16, 16)).astype(np.float32))
    weights = ms.Tensor(np.ones((3, 5, 16, 16), np.float32))
    for mine, right in zip(outcomes(network.set_train(True), x, weights), outcomes(exact, x, weights)):
        np.testing.assert_allclose(mine, right, rtol=0, atol=1e-2 * max(1, np.abs(right).max()))
    for mine, right in zip(network[1].get_parameters(), exact[1].get_parameters()):
        assert mine.dtype == ms.float32
        np.testing.assert_allclose(mine.asnumpy(), right.asnumpy(), rtol=1e-2, atol=1e-3)


class Branches(nn.Cell):
    """Branches as FastViT's RepMixer has them."""

    def __init__(self, channels):
        super().__init__()
        self.conv = Conv2d(channels, channels, 1, group=channels)
        self.scaled, self.skip, self.norm = (BatchNorm2d(channels) for _ in range(3))

    def construct(self, x):
        return joint_norms(self.conv, self.scaled, self.skip, self.norm, x)


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (2, 5, 40, 33), (4, 5, 1, 2), (1, 40, 1, 3)])
def test_three_normalisations_of_a_map_together_are_exact(shape):
    channels = shape[1]
    cell = randomize(Branches(channels)).set_train(True)
    assert cell.scaled.joint is not None
    rng = np.random.default_rng(0)
    x, weights = rng.normal(3, 2, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    names = [p.name for p in cell.trainable_params()]
    before = {p.name: p.asnumpy().astype(np.float64) for p in cell.get_parameters()}

    def exact(x, *parameters):
        values = dict(zip(names, parameters))

        def norm(name, x):
            return torch.nn.functional.batch_norm(
                x, None, None, values[f"{name}.gamma"], values[f"{name}.beta"], True, eps=1e-5
            )

        scaled = x * values["conv.weight"].reshape(-1, 1, 1)
        return norm("scaled", scaled) + norm("skip", x) - norm("norm", x)

    parameters = [p.asnumpy() for p in cell.trainable_params()]
    assert_exact([cell], [x], weights, exact, parameters)
    wide = x.astype(np.float64)
    for name, factor in (("scaled", before["conv.weight"].reshape(-1)), ("skip", 1), ("norm", 1)):
        mean, variance = before[f"{name}.moving_mean"], before[f"{name}.moving_variance"]
        for _ in range(2):  # the value, and the value with its gradients
            mean = 0.9 * mean + 0.1 * factor * wide.mean((0, 2, 3))
            variance = 0.9 * variance + 0.1 * factor**2 * wide.var((0, 2, 3), ddof=1)
        norm = getattr(cell, name)
        np.testing.assert_allclose(norm.moving_mean.asnumpy(), mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(norm.moving_variance.asnumpy(), variance, rtol=1e-6)


@pytest.mark.parametrize(
    ("level", "cells"), [("O1", "[nn.Conv2d]"), ("O1", "[nn.BatchNorm2d]"), ("O2", None), ("O3", None)]
)
def test_three_normalisations_of_a_map_run_in_mixed_precision(level, cells):
    exact = randomize(Branches(5)).set_train(True)
    mixed = copy.deepcopy(exact)
    auto_mixed_precision(mixed, level, cells)
    x = ms.Tensor(np.random.default_rng(0).normal(3, 2, (3, 5, 16, 16)).astype(np.float32))
    expected = exact(x).asnumpy()
    np.testing.assert_allclose(mixed(x).asnumpy(), expected, rtol=0, atol=1e-2 * np.abs(expected).max())
    for mine, right in zip(mixed.get_parameters(), exact.get_parameters()):
        np.testing.assert_allclose(mine.asnumpy().astype(np.float32), right.asnumpy(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("state", ["training", "evaluation", "frozen"])
def test_three_normalisations_of_a_map_are_those_apart_in_every_state(state, mode):
    cell = randomize(Branches(5)).set_train(state != "evaluation")
    if state == "frozen":
        cell.norm.use_batch_statistics = False
    x = ms.Tensor(np.random.default_rng(0).normal(3, 2, (3, 5, 6, 7)).astype(np.float32))
    found = cell(x).asnumpy()
    apart = cell.scaled(cell.conv(x)) + cell.skip(x) - cell.norm(x)
    np.testing.assert_allclose(found, apart.asnumpy(), rtol=0, atol=5e-6)


def test_loops_that_write_take_float32_only():
    whole, half = (ms.Parameter(ms.Tensor([1.0, 2.0], kind)) for kind in (ms.float32, ms.float16))
    assert update_operator("average", [half], 1) is None
    loops = update_operator("average", [whole], 1)

    class Update(nn.Cell):
        def construct(self, x):
            return loops(x, half, x)

    with pytest.raises(TypeError, match="write float32 parameters, not"):
        Update()(ms.Tensor([0.5], ms.float32))


def test_a_frozen_batch_norm_normalises_by_the_statistics_that_it_keeps(mode):
    norm, plain = randomize(BatchNorm2d(5)), randomize(nn.BatchNorm2d(5)).set_train(False)
    norm.use_batch_statistics = False
    assert_same(norm.set_train(True), plain, np.random.default_rng(0).normal(3, 2, (3, 5, 6, 7)))
    np.testing.assert_array_equal(norm.moving_mean.asnumpy(), plain.moving_mean.asnumpy())


@pytest.mark.parametrize("cell", [LayerNorm, ChannelNorm])
@pytest.mark.parametrize("shape", [(3, 24, 4, 6), (2, 8, 11, 13), (1, 70, 1, 16), (2, 16, 9, 20)])
def test_the_gradients_of_layer_norms_are_exact(mode, cell, shape):
    x, weights = np.random.default_rng(0).normal(1, 2, (2, *shape)).astype(np.float32)
    axis = 1 if cell is ChannelNorm else -1
    norm = randomize(cell(shape[axis], epsilon=1e-3))
    gamma = norm.gamma.asnumpy().astype(np.float64)
    wide, w = (np.moveaxis(array.astype(np.float64), axis, -1) for array in (x, weights))
    scale = 1 / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    normal, g = (wide - wide.mean(-1, keepdims=True)) * scale, w * gamma
    to_x = scale * (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True))
    expected = [np.moveaxis(to_x, -1, axis), (w * normal).sum((0, 1, 2)), w.sum((0, 1, 2))]
    for mine, right in zip(outcomes(norm, ms.Tensor(x), ms.Tensor(weights))[1:], expected):
        assert mine.shape == right.shape
        np.testing.assert_allclose(mine, right, rtol=0, atol=2e-6 * max(1, np.abs(right).max()))


@pytest.mark.parametrize("cell", [LayerNorm, ChannelNorm])
@pytest.mark.parametrize(("by_loops", "by_matmul"), [(True, True), (False, True), (False, False)])
def test_layer_norms_are_exact(mode, cell, by_loops, by_matmul):
    norm = randomize(cell(24, epsilon=1e-3))
    assert norm.loops is not None
    norm.loops = norm.loops if by_loops else None
    norm.by_matmul = by_matmul
    x = np.random.default_rng(0).normal(5, 2, (3, 24, 4, 6) if cell is ChannelNorm else (3, 4, 6, 24))
    axis = 1 if cell is ChannelNorm else -1
    wide = np.moveaxis(x.astype(np.float32).astype(np.float64), axis, -1)
    wide = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    gamma, beta = (p.asnumpy().astype(np.float64) for p in (norm.gamma, norm.beta))
    expected = np.moveaxis(wide * gamma + beta, -1, axis)
    x = ms.Tensor(x.astype(np.float32))
    np.testing.assert_allclose(norm(x).asnumpy(), expected, rtol=0, atol=5e-6)
    half = norm(x.astype(ms.float16))
    assert half.dtype == ms.float16
    np.testing.assert_allclose(half.asnumpy(), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("by_matmul", [False, True])
@pytest.mark.parametrize("keep_dims", [False, True])
def test_the_global_pool_is_the_mean(mode, by_matmul, keep_dims):
    pool = GlobalAvgPool(keep_dims)
    pool.by_matmul = by_matmul
    x = np.random.default_rng(0).normal(5, 2, (3, 4, 7, 9)).astype(np.float32)
    expected = x.astype(np.float64).mean((2, 3), keepdims=keep_dims)
    means = pool(ms.Tensor(x)).asnumpy()
    assert means.shape == expected.shape
    np.testing.assert_allclose(means, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 48, 16, 16), (3, 5, 1, 1), (2, 7, 33, 9)])
def test_scaled_residual_by_loops_equals_the_one_by_operators(shape):
    class Cell(nn.Cell):
        def __init__(self):
            super().__init__()
            scale = np.random.default_rng(3).standard_normal((shape[1], 1, 1)).astype(np.float32)
            self.scale = ms.Parameter(ms.Tensor(scale), name="scale")
            self.residual = ScaledResidual()

        def construct(self, x):
            return self.residual(x, self.scale, ops.sin(x))

    own = Cell().set_train()
    assert own.residual.loops is not None
    with backend.portable_form():
        plain = Cell().set_train()
    assert_same(own, plain, np.random.default_rng(0).standard_normal(shape), tolerance=2e-6)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 3, 5, 4)], ids=["rows", "tokens", "maps"])
def test_a_linear_layer_without_loops_is_mindspores_to_the_last_bit(shape, bias, mode):
    with backend.portable_form():
        plain, own = nn.Dense(4, 7, has_bias=bias), Dense(4, 7, has_bias=bias)
    for mine, theirs in zip(own.get_parameters(), plain.get_parameters()):
        mine.set_data(theirs)
    x = ms.Tensor(np.random.default_rng(0).standard_normal(shape), ms.float32)
    outputs, slopes = [], []
    for cell in (own, plain):
        outputs.append(cell(x).asnumpy())
        slopes.append([g.asnumpy() for g in ops.grad(cell, None, cell.trainable_params())(x)])
    np.testing.assert_array_equal(*outputs)
    for mine, theirs in zip(*slopes):
        np.testing.assert_array_equal(mine, theirs)


class WeightedSums(nn.Cell):
    """A mixture of the sums over pixels of a segmenter's losses, of those that have a gradient."""

    def __init__(self, labels, weights, *factors):
        super().__init__()
        self.labels, self.weights = ms.Tensor(labels), ms.Tensor(weights)
        self.factors = [ms.Tensor(each) for each in factors]
        self.sums = PixelSums()

    def construct(self, logits):
        sums = self.sums(logits, self.labels, self.weights)
        entropy, common, probabilities = self.factors
        return entropy * sums[0] + (common * sums[2]).sum() + (probabilities * sums[3]).sum()


def pixel_sums_in_float64(logits, labels, weights):
    """By PyTorch; ``(entropy, hits, common, probabilities, pixels)``."""
    classes, labels = logits.shape[1], torch.from_numpy(labels).long()
    logits = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear")
    targets = torch.nn.functional.one_hot(labels.clamp(min=0), classes).permute(0, 3, 1, 2) * (labels >= 0)[:, None]
    weights = torch.from_numpy(weights).double().reshape(1, -1, 1, 1)
    entropy = -(torch.log_softmax(logits, 1) * weights * targets).sum()
    p = torch.softmax(logits, 1) * (labels >= 0)[:, None]
    hits = (logits.argmax(1) == labels).sum()
    return entropy, hits, *((maps).sum((0, 2, 3)) for maps in (p * targets, p, targets))


@pytest.mark.parametrize(
    ("before", "after", "classes"),
    [((5, 7), (20, 28), 4), ((40, 19), (67, 75), 3), ((9, 4), (5, 11), 19), ((1, 3), (6, 1), 2), ((4, 5), (4, 5), 1)],
)
def test_sums_over_pixels_and_their_gradient(mode, before, after, classes):
    """Enlarged, reduced and as they are; some pixels count nowhere; logits are beyond what exponentials can take."""
    rng = np.random.default_rng(0)
    logits = (30 * rng.standard_normal((3, classes, *before)) + 100).astype(np.float32)
    labels = rng.integers(-1, classes, (3, *after)).astype(np.int32)
    weights, *factors = (rng.uniform(0.5, 2, shape).astype(np.float32) for shape in (classes, (), classes, classes))
    wide = torch.from_numpy(logits).double().requires_grad_()
    expected = pixel_sums_in_float64(wide, labels, weights)
    entropy, common, probabilities = (torch.from_numpy(np.asarray(each)).double() for each in factors)
    total = entropy * expected[0] + (common * expected[2]).sum() + (probabilities * expected[3]).sum()
    total.backward()
    cell = WeightedSums(labels, weights, *factors)
    assert cell.sums.loops is not None
    gradient = ms.grad(cell)(ms.Tensor(logits)).asnumpy()
    for value, exact in zip(cell.sums(ms.Tensor(logits), cell.labels, cell.weights), expected):
        np.testing.assert_allclose(value.asnumpy(), exact.detach().numpy(), rtol=2e-6, atol=1e-4)
    np.testing.assert_allclose(gradient, wide.grad.numpy(), rtol=0, atol=2e-5 * np.abs(wide.grad.numpy()).max())


def attention_in_float64(q, k, v, bias=None):
    """Of ``(N, L, heads, D)`` and ``(N, M, heads, D)`` twice, ``(N, L, heads * D)``, by PyTorch."""
    parts = (each.transpose(1, 2) for each in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(*parts, bias)
    return out.transpose(1, 2).flatten(2)


def assert_exact(cells, inputs, weights, exact, parameters=()):
    """Values and gradients of the weighted sum, by the inputs and parameters, are those of a function in float64."""
    wide = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (*inputs, *parameters)]
    out = exact(*wide)
    (out * torch.tensor(weights)).sum().backward()
    expected = [each.detach().numpy() for each in (out, *(each.grad for each in wide))]
    for cell in cells:
        differentiate = ops.GradOperation(get_all=True, get_by_list=bool(parameters), sens_param=True)
        arguments = [ms.Tensor(each) for each in inputs]
        if parameters:
            to_inputs, to_parameters = differentiate(cell, cell.trainable_params())(*arguments, ms.Tensor(weights))
        else:
            to_inputs, to_parameters = differentiate(cell)(*arguments, ms.Tensor(weights)), ()
        for found, value in zip((cell(*arguments), *to_inputs, *to_parameters), expected, strict=True):
            assert found.shape == value.shape
            assert np.abs(found.asnumpy() - value).max() <= 2e-6 * np.abs(value).max()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("count", "length", "heads", "width"), [(3, 1, 1, 8), (2, 49, 2, 32), (1, 53, 3, 20), (2, 130, 1, 50), (5, 4, 2, 7)]
)
def test_attention_by_loops_and_by_operators_is_exact(count, length, heads, width, bias):
    class Cell(nn.Cell):
        def __init__(self):
            super().__init__()
            self.attention = SelfAttention(heads, width**-0.5)
            table = np.random.default_rng(3).standard_normal((1, heads, length, length)).astype(np.float32)
            self.table = ms.Parameter(ms.Tensor(3 * table), name="table") if bias else None

        def construct(self, qkv):
            return self.attention(qkv, self.table)

    own = Cell()
    assert own.attention.loops is not None
    with backend.portable_form():
        plain = Cell()
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal((count, length, 3 * heads * width)).astype(np.float32)
    weights = rng.standard_normal((count, length, heads * width)).astype(np.float32)
    parameters = [own.table.asnumpy()] if bias else []

    def exact(qkv, table=None):
        return attention_in_float64(*qkv.unflatten(2, (3, heads, width)).unbind(2), table)

    assert_exact((own, plain), [x], weights, exact, parameters)


@pytest.mark.parametrize(
    ("count", "length", "others", "heads", "width"), [(2, 196, 49, 2, 32), (1, 1, 7, 1, 8), (3, 65, 130, 3, 20)]
)
def test_attention_to_other_tokens_is_exact(count, length, others, heads, width):
    own = CrossAttention(heads, width**-0.5)
    assert own.loops is not None
    with backend.portable_form():
        plain = CrossAttention(heads, width**-0.5)
    rng = np.random.default_rng(0)
    q, kv, weights = (
        rng.standard_normal((count, *shape)).astype(np.float32)
        for shape in ((length, heads * width), (others, 2 * heads * width), (length, heads * width))
    )

    def exact(q, kv):
        return attention_in_float64(q.unflatten(2, (heads, width)), *kv.unflatten(2, (2, heads, width)).unbind(2))

    assert_exact((own, plain), [2 * q, 2 * kv], weights, exact)


@pytest.mark.parametrize(
    ("shape", "heads", "width", "side"),
    [((2, 6, 4), 2, 32, 2), ((1, 9, 3), 1, 8, 3), ((3, 5, 2), 3, 7, 1), ((1, 10, 20), 2, 6, 10)],
)
def test_attention_within_windows_is_exact(shape, heads, width, side):
    own = WindowAttention(heads, width**-0.5, side)
    assert own.loops is not None
    with backend.portable_form():
        plain = WindowAttention(heads, width**-0.5, side)
    rng = np.random.default_rng(0)
    qkv = 2 * rng.standard_normal((*shape, 3 * heads * width)).astype(np.float32)
    weights = rng.standard_normal((*shape, heads * width)).astype(np.float32)

    def exact(qkv):
        b, rows, columns = shape[0], shape[1] // side, shape[2] // side
        parts = qkv.reshape(b, rows, side, columns, side, 3, heads, width).permute(5, 0, 1, 3, 2, 4, 6, 7)
        out = attention_in_float64(*parts.reshape(3, b * rows * columns, side * side, heads, width))
        return out.reshape(b, rows, columns, side, side, -1).transpose(2, 3).reshape(*shape, -1)

    assert_exact((own, plain), [qkv], weights, exact)


@pytest.mark.parametrize(("shape", "side"), [((2, 6, 4, 5), 2), ((1, 9, 3, 40), 3), ((3, 5, 2, 7), 1)])
def test_means_over_windows_are_exact(shape, side):
    own = WindowMeans(side)
    assert own.loops is not None
    with backend.portable_form():
        plain = WindowMeans(side)
    b, height, width, c = shape
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, shape).astype(np.float32)
    weights = rng.standard_normal((b, height * width // side**2, c)).astype(np.float32)

    def exact(x):
        return x.reshape(b, height // side, side, width // side, side, c).mean((2, 4)).flatten(1, 2)

    assert_exact((own, plain), [x], weights, exact)

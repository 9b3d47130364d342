"""The training step against arithmetic done by hand in NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindcv_models.cells import set_value
from mindcv_models.classification.objective import ClassificationObjective
from mindcv_models.layers import BatchNorm2d
from mindcv_models.training import EMA, LossScale, TrainStep
from mindcv_models.training.clipping import GlobalNormClip
from mindcv_models.training.groups import Group
from mindcv_models.training.optimizer import AdamW
from mindcv_models.training.schedule import Rate
from tests.helpers.networks import RATE, Linear, data


def objective_of(network):
    return ClassificationObjective(network, MeanSquare())


class MeanSquare(nn.Cell):
    def construct(self, logits, labels):
        return ((logits - labels) ** 2).mean()


def gradient(w, x, y):
    return 2 * x.T @ (x @ w - y) / y.size


def make(**kwargs):
    network = Linear()
    optimizer = nn.SGD(network.trainable_params(), learning_rate=RATE)
    return network, TrainStep(objective_of(network), optimizer, **kwargs)


def tensors(x, y):
    return Tensor(x), Tensor(y)


def test_one_step_is_gradient_descent():
    network, step = make()
    w = network.w.asnumpy().copy()
    x, y = data()
    loss = step(*tensors(x, y))
    np.testing.assert_allclose(float(loss), ((x @ w - y) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * gradient(w, x, y), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [LossScale(1024.0), LossScale(8.0, dynamic=True), LossScale(4.0, skip_overflow=True)])
def test_the_loss_scale_changes_neither_loss_nor_update(scale):
    network, step = make(loss_scale=scale)
    w = network.w.asnumpy().copy()
    x, y = data()
    np.testing.assert_allclose(float(step(*tensors(x, y))), ((x @ w - y) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * gradient(w, x, y), rtol=1e-5, atol=1e-7)


def test_a_dynamic_scale_grows_and_halves_and_skips_overflows():
    network, step = make(loss_scale=LossScale(8.0, dynamic=True, window=2))
    x, y = data()
    scale = step.loss_scale.value
    step(*tensors(x, y))
    assert float(scale) == 8
    step(*tensors(x, y))
    assert float(scale) == 16
    before = network.w.asnumpy().copy()
    step(*tensors(x * np.float32(1e38), y))
    np.testing.assert_array_equal(network.w.asnumpy(), before)
    assert float(scale) == 8
    step(*tensors(x, y))
    assert np.abs(network.w.asnumpy() - before).max() > 0


def test_gradients_are_clipped_by_their_global_norm():
    network, step = make(clip_norm=0.01)
    w = network.w.asnumpy().copy()
    x, y = data()
    step(*tensors(x, y))
    expected = gradient(w, x, y)
    assert np.linalg.norm(expected) > 0.01
    expected *= 0.01 / np.linalg.norm(expected)
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("last_type", [np.float16, np.float32])
@pytest.mark.parametrize(("largest", "scale"), [(3.0, 1.0), (1e6, 1.0), (3.0, 1e3)])
def test_the_norm_is_over_all_gradients_whatever_their_size_and_type(mode, largest, scale, last_type):
    rng = np.random.default_rng(0)
    shapes = (), (1,), (15, 1), (4096,), (33, 130), (2, 3, 16, 43)
    arrays = [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]
    arrays.append(rng.standard_normal((5, 7)).astype(last_type))
    norm = np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays))
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    clipped = GlobalNormClip(largest)(tuple(map(Tensor, arrays)))
    ms.set_context(mode=before)
    for array, found in zip(arrays, clipped):
        assert found.asnumpy().dtype == array.dtype
        expected = array.astype(np.float64) * min(1, largest / norm)
        rtol, atol = (2e-3, 6e-8) if array.dtype == np.float16 else (1e-6, 0)
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=rtol, atol=atol)


def test_accumulated_batches_make_the_update_of_one_large_batch():
    network, step = make(accumulate=3)
    w = network.w.asnumpy().copy()
    x, y = data(count=12)
    for part in range(3):
        np.testing.assert_array_equal(network.w.asnumpy(), w)
        step(*tensors(x[part::3], y[part::3]))
    expected = w - RATE * gradient(w, x, y)
    np.testing.assert_allclose(network.w.asnumpy(), expected, rtol=1e-5, atol=1e-7)
    for part in range(3):
        step(*tensors(x[part::3], y[part::3]))
    np.testing.assert_allclose(network.w.asnumpy(), expected - RATE * gradient(expected, x, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ramp", [False, True])
def test_the_moving_average_follows_its_formula(ramp):
    network = Linear()
    ema = EMA(network, 0.9, ramp)
    step = TrainStep(objective_of(network), nn.SGD(network.trainable_params(), learning_rate=RATE), ema=ema)
    average = network.w.asnumpy().astype(np.float64)
    x, y = data()
    for count in range(1, 4):
        step(*tensors(x, y))
        decay = 0.9 * (1 - np.exp(-count / 2000)) if ramp else 0.9
        average = decay * average + (1 - decay) * network.w.asnumpy().copy()
    np.testing.assert_allclose(ema.averages[0].asnumpy(), average, rtol=1e-5)
    own = network.w.asnumpy().copy()
    with ema.applied():
        np.testing.assert_array_equal(network.w.asnumpy(), ema.averages[0].asnumpy())
    np.testing.assert_array_equal(network.w.asnumpy(), own)


def test_the_moving_average_takes_the_statistics_of_the_same_step():
    network = nn.SequentialCell(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.Flatten(), nn.Dense(4 * 25, 2))
    statistics = network[1].moving_mean
    optimizer = AdamW([Group(network.trainable_params(), 1.0, 1.0, 0.0)], [Rate([RATE])])
    ema = EMA(network, 0.9, False)
    step = TrainStep(objective_of(network), optimizer, ema=ema)
    average = statistics.asnumpy().astype(np.float64)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(2, 1, (4, 3, 5, 5)).astype(np.float32)
        step(Tensor(x), Tensor(np.zeros((4, 2), np.float32)))
        average = 0.9 * average + 0.1 * statistics.asnumpy()
    index = [parameter.name for parameter in ema.weights].index(statistics.name)
    assert np.abs(average).min() > 1e-4
    np.testing.assert_allclose(ema.averages[index].asnumpy(), average, rtol=1e-5)


def test_a_compiled_step_goes_on_from_values_that_it_is_given():
    """``Parameter.set_data`` would not do where the update is in a branch of the graph."""
    network, step = make(accumulate=2, loss_scale=LossScale(8.0, dynamic=True, window=100))
    x, y = data(count=8)
    batches = [tensors(x[part::2], y[part::2]) for part in (0, 1)]
    for batch in (*batches, batches[0]):
        step(*batch)
    w = np.ones((3, 2), np.float32)
    for name, value in {"w": w, "global_step": [50], "loss_scale_good_steps": 7, "accumulated_batches": 0}.items():
        set_value(step.parameters_dict()[name], np.array(value))
    set_value(step.sums[0], np.zeros((3, 2)))
    for batch in batches:
        step(*batch)
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * gradient(w, x, y), rtol=1e-5, atol=1e-7)
    assert step.optimizer.global_step.asnumpy() == 51
    assert float(step.loss_scale.good_steps) == 8


def test_the_step_runs_eagerly_too():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network, step = make(clip_norm=10.0, accumulate=2, loss_scale=LossScale(8.0, dynamic=True))
    w = network.w.asnumpy().copy()
    x, y = data(count=8)
    for part in range(2):
        step(*tensors(x[part::2], y[part::2]))
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * gradient(w, x, y), rtol=1e-5, atol=1e-7)


class Many(nn.Cell):
    """More parameters than MindSpore's compiler lets calls nest."""

    def __init__(self, count=1001):
        super().__init__()
        self.all = ParameterTuple([Parameter(Tensor([0.1], ms.float32), name=f"w{i}") for i in range(count)])

    def construct(self, x):
        return ops.addn(self.all) * x


@pytest.mark.slow
def test_a_network_may_have_any_number_of_parameters():
    network = Many()
    optimizer = AdamW([Group(network.trainable_params(), 1.0, 1.0, 0.0)], [Rate([RATE])])
    ema = EMA(network, 0.5, False)
    loss_scale = LossScale(8.0, dynamic=True)
    step = TrainStep(objective_of(network), optimizer, loss_scale, ema, clip_norm=1.0, accumulate=2)
    for _ in range(2):
        step(Tensor([[1.0]], ms.float32), Tensor([[0.0]], ms.float32))
    for weight, average in zip(network.trainable_params(), ema.averages):
        np.testing.assert_allclose(weight.asnumpy(), 0.0, atol=1e-5)
        np.testing.assert_allclose(average.asnumpy(), 0.05, atol=1e-5)

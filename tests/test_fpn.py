"""The feature pyramid network, against a plain computation with PyTorch's definitions of its layers, in NumPy."""

import mindspore as ms
import numpy as np
import pytest

from mindcv_models.checkpoint.names import torch_names
from mindcv_models.errors import InputError
from mindcv_models.layers import resize_nearest
from mindcv_models.models.fpn import FPN


def conv(x, weight, bias, stride=1):
    """A convolution padded by half its kernel, in float64: the sum over taps of shifted maps."""
    k = weight.shape[2]
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    taps = [
        np.einsum("bchw,dc->bdhw", padded[:, :, i : i + h : stride, j : j + w : stride], weight[:, :, i, j])
        for i in range(k)
        for j in range(k)
    ]
    return sum(taps) + bias[:, None, None]


def nearest(x, height, width):
    rows = np.arange(height) * x.shape[2] // height
    columns = np.arange(width) * x.shape[3] // width
    return x[:, :, rows][..., columns]


SIZES = ((3, 15, 21), (5, 8, 11), (6, 4, 5))  # channels, height, width


def build(**options):
    network = FPN([channels for channels, _, _ in SIZES], 4, **options)
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.standard_normal(parameter.shape).astype(np.float32) / 3))
    maps = [rng.standard_normal((2, *size)).astype(np.float32) for size in SIZES]
    return network.set_train(False), maps


@pytest.mark.parametrize("extra", [None, "pool", "conv_on_input"])
def test_outputs(extra):
    network, maps = build(extra=extra)
    values = {name: p.asnumpy().astype(np.float64) for name, p in network.parameters_dict().items()}

    def apply(kind, k, x, stride=1):
        return conv(x, values[f"{kind}_convs.{k}.conv.weight"], values[f"{kind}_convs.{k}.conv.bias"], stride)

    sums = [apply("lateral", k, maps[k]) for k in range(3)]
    for k in (2, 1):
        sums[k - 1] = sums[k - 1] + nearest(sums[k], *sums[k - 1].shape[2:])
    expected = [apply("fpn", k, sums[k]) for k in range(3)]
    if extra == "pool":
        expected.append(expected[-1][:, :, ::2, ::2])
    if extra == "conv_on_input":
        expected.append(apply("fpn", 3, maps[2], 2))
        expected.append(apply("fpn", 4, expected[-1], 2))
    outputs = network(tuple(ms.Tensor(m) for m in maps))
    assert network.out_channels == [4] * len(expected)
    assert len(outputs) == len(expected)
    for output, array in zip(outputs, expected):
        np.testing.assert_allclose(output.asnumpy(), array, rtol=0, atol=2e-5)


def test_the_pooled_level_has_a_gradient_eagerly_too(eager):
    """Of the last output alone: a bias gets the sum of what every second pixel gets."""
    network, maps = build(extra="pool")
    weights = np.random.default_rng(1).standard_normal((2, 4, 2, 3)).astype(np.float32)

    def loss(*maps):
        return (network(maps)[-1] * ms.Tensor(weights)).sum()

    bias = network.fpn_convs[2].conv.bias
    gradient = ms.grad(loss, None, bias)(*map(ms.Tensor, maps))
    np.testing.assert_allclose(gradient.asnumpy(), weights.sum((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("small", "large"), [((25, 42), (50, 84)), ((8, 11), (15, 21)), ((1, 3), (2, 5))])
def test_enlarging_takes_the_floor(small, large):
    x = np.random.default_rng(1).standard_normal((1, 2, *small)).astype(np.float32)
    np.testing.assert_array_equal(resize_nearest(ms.Tensor(x), *large).asnumpy(), nearest(x, *large))


def test_names_are_the_official_ones():
    network = FPN([8, 16], 4, extra="conv_on_input")
    expected = [f"lateral_convs.{k}.conv.{leaf}" for k in range(2) for leaf in ("weight", "bias")]
    expected += [f"fpn_convs.{k}.conv.{leaf}" for k in range(4) for leaf in ("weight", "bias")]
    assert list(torch_names(network).values()) == expected
    assert network.fpn_convs[2].conv.weight.shape == (4, 16, 3, 3)


@pytest.mark.parametrize("init", ["xavier", "kaiming"])
def test_initial_values(init):
    network = FPN([64], 128, init=init)
    weight = network.fpn_convs[0].conv.weight.asnumpy()
    if init == "xavier":
        bound = np.sqrt(6 / (9 * 128 + 9 * 128))
        assert 0.99 * bound < np.abs(weight).max() <= bound
        np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.02)
    else:
        np.testing.assert_allclose(weight.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    assert not network.fpn_convs[0].conv.bias.asnumpy().any()
    assert not network.lateral_convs[0].conv.bias.asnumpy().any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one map"),
        (([8], 4, "convs"), 'choose "conv_on_input", "pool" or None'),
        (([8], 4, None, "normal"), "choose from xavier, kaiming"),
    ],
)
def test_arguments_that_have_no_meaning_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        FPN(*arguments)

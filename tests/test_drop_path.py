"""Stochastic depth from given random numbers: its statistics, and that the same numbers give the same rows."""

import mindspore as ms
import numpy as np
import pytest
from mindcv.models.layers.drop_path import DropPath as MindCVDropPath
from mindspore import Tensor, nn

from mindcv_models.training.drop_path import DropPathDraws

KEEP, ROWS, STEPS = 0.7, 300, 400


class TwoLayers(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = MindCVDropPath(1 - KEEP)
        self.rest = nn.SequentialCell([nn.Identity(), MindCVDropPath(0.5), MindCVDropPath(0.0)])

    def construct(self, x):
        return self.first(x), self.rest(x)


@pytest.fixture
def network():
    return TwoLayers().set_train()


def masks(network, draws, steps=STEPS, rows=ROWS):
    """``(layers, steps, rows)``, what ones become."""
    x = Tensor(np.ones((rows, 2, 3), np.float32))
    result = []
    for step in range(steps):
        draws.fill(np.random.default_rng(step))
        first, second = (out.asnumpy().copy() for out in network(x))
        assert (first == first[:, :1, :1]).all()
        result.append((first[:, 0, 0], second[:, 0, 0]))
    return np.array(result).swapaxes(0, 1)


def test_rows_are_dropped_independently_at_their_rate(network):
    first, second = masks(network, DropPathDraws.of(network))
    np.testing.assert_allclose(np.unique(first), [0, 1 / KEEP], rtol=1e-6)
    np.testing.assert_array_equal(np.unique(second), [0, 2])
    kept = first > 0
    deviation = np.sqrt(KEEP * (1 - KEEP))
    assert abs(kept.mean() - KEEP) < 5 * deviation / np.sqrt(kept.size)
    # Each row, each step, and each pair of rows: as many as 1.2e5 independent draws would give.
    assert np.abs(kept.mean(0) - KEEP).max() < 5 * deviation / np.sqrt(STEPS)
    assert np.abs(kept.mean(1) - KEEP).max() < 5 * deviation / np.sqrt(ROWS)
    np.testing.assert_allclose(kept.mean(1).std(), deviation / np.sqrt(ROWS), rtol=0.2)
    correlations = np.corrcoef(kept.T)[np.triu_indices(ROWS, 1)]
    np.testing.assert_allclose(correlations.std(), 1 / np.sqrt(STEPS), rtol=0.05)
    assert abs(np.corrcoef(kept.ravel(), (second > 0).ravel())[0, 1]) < 5 / np.sqrt(kept.size)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_the_same_numbers_drop_the_same_rows(network, mode):
    ms.set_context(mode=mode)
    draws = DropPathDraws.of(network)
    first = masks(network, draws, 3, 40)
    np.testing.assert_array_equal(masks(network, draws, 3, 40), first)
    assert (first[:, 0] != first[:, 1]).any()


def test_evaluation_keeps_every_row_and_nothing_becomes_a_parameter(network):
    DropPathDraws.of(network)
    assert list(network.get_parameters()) == []
    x = Tensor(np.random.default_rng(0).random((5, 2), np.float32))
    first, second = network.set_train(False)(x)
    np.testing.assert_array_equal(first.asnumpy(), x.asnumpy())
    np.testing.assert_array_equal(second.asnumpy(), x.asnumpy())


def test_a_network_without_stochastic_depth_has_no_draws():
    network = nn.SequentialCell([MindCVDropPath(0.0), nn.Dense(2, 2)])
    assert DropPathDraws.of(network) is None
    assert type(network[0]) is MindCVDropPath

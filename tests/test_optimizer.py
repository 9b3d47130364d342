"""Parameter groups: learning-rate factors and weight decay, seen in what one update does."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindcv_models.config import Options
from mindcv_models.training import build_optimizer, learning_rates


class Weights(nn.Cell):
    def __init__(self):
        super().__init__()
        self.slow = Parameter(Tensor(np.ones((2, 2), np.float32)))
        self.fast = Parameter(Tensor(np.ones((2, 2), np.float32)))
        self.bias = Parameter(Tensor(np.ones(2, np.float32)))


class Scaled(Weights):
    def lr_scale(self):
        return {"slo*": 0.01}


def update(network, **changes):
    """What one step of SGD with unit gradients takes away from each parameter."""
    options = Options(opt="sgd", momentum=0.0, weight_decay=0.5, lr=0.1, **changes)
    optimizer = build_optimizer(options, network, [0.1] * 4)
    optimizer(tuple(Tensor(np.ones(p.shape, np.float32)) for p in network.trainable_params()))
    return {p.name: 1 - p.asnumpy().mean() for p in network.trainable_params()}


def test_lr_scale_multiplies_the_learning_rate_of_the_parameters_it_names():
    plain, scaled = update(Weights()), update(Scaled())
    assert plain["slow"] == pytest.approx(0.15)
    assert scaled == {**plain, "slow": pytest.approx(0.0015, abs=1e-6)}


@pytest.mark.parametrize("network", [Weights, Scaled])
def test_weight_decay_spares_biases_when_told_to(network):
    taken = update(network(), weight_decay_filter="norm_and_bias")
    assert taken["bias"] == pytest.approx(0.1)
    assert taken["fast"] == pytest.approx(0.15)


def test_the_schedule_warms_up_and_decays_to_its_minimum():
    rates = learning_rates(Options(lr=1.0, min_lr=0.1, warmup_epochs=2, decay_epochs=8, epoch_size=10), 5)
    assert len(rates) == 50
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))

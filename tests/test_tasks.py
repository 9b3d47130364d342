"""The seams between the training loop and the tasks."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_models.classification.task import TASK
from mindcv_models.errors import InputError
from mindcv_models.tasks import task_of
from mindcv_models.training import EMA, LossScale, Objective, TrainStep
from mindcv_models.training.progress import RunPosition
from tests.helpers.networks import RATE, Linear, data


class TwoLosses(Objective):
    """Squared and absolute differences to labels, weighted by a third tensor of the batch."""

    parts = ("square", "absolute")

    def construct(self, images, labels, weights):
        difference = (self.network(images) - labels) * weights
        square, absolute = (difference**2).mean(), ops.abs(difference).mean()
        return square + 0.5 * absolute, (square, absolute)


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_returns_the_loss_and_its_parts_and_learns_from_the_loss(scale, accumulate):
    network = Linear()
    w = network.w.asnumpy().copy()
    x, y = data()
    weights = np.linspace(0.5, 1.5, y.size, dtype=np.float32).reshape(y.shape)
    step = TrainStep(
        TwoLosses(network), nn.SGD(network.trainable_params(), learning_rate=RATE), LossScale(scale),
        ema=EMA(network, 0.5, ramp=False), accumulate=accumulate,
    )  # fmt: skip
    for _ in range(accumulate):
        losses = step(Tensor(x), Tensor(y), Tensor(weights))
        difference = (x @ w - y) * weights
        square, absolute = (difference**2).mean(), np.abs(difference).mean()
        np.testing.assert_allclose(losses.asnumpy(), [square + 0.5 * absolute, square, absolute], rtol=1e-5)
    gradient = x.T @ ((2 * difference + 0.5 * np.sign(difference)) * weights) / y.size
    np.testing.assert_allclose(network.w.asnumpy(), w - RATE * gradient, rtol=1e-4, atol=1e-6)


def test_the_means_of_an_epoch_are_those_of_each_part():
    position = RunPosition()
    assert np.isnan(position.mean_loss) and position.mean_parts == []
    for losses in ([3.0, 1.0, 2.0], [5.0, 2.0, 3.0]):
        position.count(np.array(losses, np.float32))
    assert (position.mean_loss, position.mean_parts) == (4.0, [1.5, 2.5])
    assert position.next_epoch() == RunPosition(epoch=2)
    scalar = RunPosition(stuck=1, without_gain=2)
    scalar.count(np.float32(2.5))
    assert (scalar.mean_loss, scalar.mean_parts) == (2.5, [])
    assert scalar.next_epoch() == RunPosition(epoch=2, stuck=1, without_gain=2)


def test_a_model_without_a_task_of_its_own_is_a_classifier():
    for model in ("fastvit_t8", "faster_vit_0_224", "litv2_s", "resnet50", "no_such_model", ""):
        assert task_of(model) is TASK


def test_sophia_needs_a_classifier():
    from mindcv_models.distributed import ONE_DEVICE
    from mindcv_models.training import CurvatureStep

    with pytest.raises(InputError, match="opt sophiag needs the logits of a classifier: choose another optimizer"):
        CurvatureStep(TwoLosses(Linear()), None, LossScale(), ONE_DEVICE)

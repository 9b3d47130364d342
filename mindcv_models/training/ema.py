"""A moving average of a network's weights."""

from contextlib import contextmanager

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..cells import set_value
from ..layers.custom import in_graph_mode
from .updates import update_operator

__all__ = ["EMA"]


class EMA(nn.Cell):
    """The exponential moving average of every parameter, statistics of batch normalisation included.

    Part of the compiled step, on the CPU as one operator. ``average <- decay * average + (1 - decay) * weight``; with
    ``ramp`` the decay starts at 0 as ``decay * (1 - exp(-step / 2000))``, so that a short run is not dominated by its
    first weights.

    Args:
        network: the network whose parameters are averaged; its state-dict names get the prefix ``ema.``.
        average: a network of the same kind whose parameters become the averages, where one is to be run.
    """

    def __init__(self, network: nn.Cell, decay: float, ramp: bool, average: nn.Cell = None):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.ramp = ramp
        self.weights = ParameterTuple(network.get_parameters())
        self.averages = self.weights.clone("ema", init="same")
        if average is not None:
            self.averages = ParameterTuple(average.get_parameters())
            for mean, weight in zip(self.averages, self.weights):
                set_value(mean, weight.asnumpy())
        self.map = ops.HyperMap()
        self.update = update_operator("average", self.averages, len(self.weights))
        self.step = Parameter(Tensor(0.0, ms.float32), name="ema_step", requires_grad=False)

    def construct(self):
        step = self.step + 1
        decay = self.decay * (1 - ops.exp(-step / 2000)) if self.ramp else ops.ones_like(step) * self.decay
        return ops.depend(ops.assign(self.step, step), self.average_in(decay))

    def average_in(self, decay):
        if self.update is not None and in_graph_mode():
            return self.update(decay.reshape(1), *self.averages, *self.weights)
        return self.map(ops.partial(put_average, decay), self.averages, self.weights)

    @contextmanager
    def applied(self):
        """Within this block the network holds the averages; its own weights come back after it."""
        own = [weight.asnumpy().copy() for weight in self.weights]
        for weight, average in zip(self.weights, self.averages):
            set_value(weight, average.asnumpy())
        try:
            yield
        finally:
            for weight, value in zip(self.weights, own):
                set_value(weight, value)


def put_average(decay, average, weight):
    return ops.assign(average, decay * average + (1 - decay) * weight)

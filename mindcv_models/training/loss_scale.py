"""Loss scaling for mixed precision."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

__all__ = ["LossScale"]


class LossScale(nn.Cell):
    """The factor on the loss that keeps small float16 gradients from vanishing.

    A dynamic scale doubles after ``window`` updates without an overflow, and halves at each one, down to 1.

    Attributes:
        scales: whether there is anything to multiply by; a fixed scale of 1 costs nothing.
        checks: whether updates with an overflow are skipped, which costs a look at every gradient.
    """

    def __init__(self, value: float = 1.0, dynamic: bool = False, skip_overflow: bool = False, window: int = 2000):
        super().__init__(auto_prefix=False)
        self.dynamic = dynamic
        self.scales = dynamic or value != 1
        self.checks = dynamic or skip_overflow
        self.window = window
        self.value = Parameter(Tensor(value, ms.float32), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0.0, ms.float32), name="loss_scale_good_steps", requires_grad=False)

    def construct(self, finite):
        """Adapt the scale to the outcome of a step: ``finite``, a boolean scalar."""
        if not self.dynamic:
            return finite
        good_steps = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grows = good_steps >= self.window
        grown = ops.select(grows, self.value * 2, self.value)
        shrunk = ops.maximum(self.value * 0.5, ops.ones_like(self.value))
        done = ops.assign(self.value, ops.select(finite, grown, shrunk))
        done = ops.depend(done, ops.assign(self.good_steps, ops.select(grows, ops.zeros_like(good_steps), good_steps)))
        return ops.depend(finite, done)

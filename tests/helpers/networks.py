"""Small networks whose steps are easy to write down in NumPy."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

RATE = 0.1


class Linear(nn.Cell):
    """Logits ``x @ w``; its gradients are easy to write down."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w = Parameter(Tensor(scale * np.arange(6).reshape(3, 2) / 10, ms.float32))

    def construct(self, x):
        return ops.matmul(x, self.w)


def data(seed=0, count=4):
    rng = np.random.RandomState(seed)
    return rng.randn(count, 3).astype(np.float32), rng.randn(count, 2).astype(np.float32)

"""Small networks whose steps are easy to write down in NumPy, and shallow ones of the three families."""

import dataclasses

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

import mindcv_models
from mindcv_models.models import fastervit, fastvit, litv2
from tests.helpers import parity

RATE = 0.1


class Linear(nn.Cell):
    """Logits ``x @ w``; its gradients are easy to write down."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w = Parameter(Tensor(scale * np.arange(6).reshape(3, 2) / 10, ms.float32))

    def construct(self, x):
        return ops.matmul(x, self.w)


def create(name, **options):
    """A network whose weights are still to be loaded, or do not matter."""
    with no_init_parameters():
        return mindcv_models.create_model(name, **options)


def data(seed=0, count=4):
    rng = np.random.RandomState(seed)
    return rng.randn(count, 3).astype(np.float32), rng.randn(count, 2).astype(np.float32)


def make_shallow(monkeypatch, depths=(1, 1, 2, 1)):
    """Give every variant of the three families ``depths``, with which each kind of block stays."""
    for family in (fastvit, fastervit, litv2):
        for name, variant in family.VARIANTS.items():
            monkeypatch.setitem(family.VARIANTS, name, dataclasses.replace(variant, depths=depths))


def filled(network):
    """``network`` with weights of which every one counts, for evaluation."""
    for name, parameter in network.parameters_and_names():
        official = name.replace("moving_variance", "running_var").replace("moving_mean", "running_mean")
        parameter.set_data(ms.Tensor(parity.parameter(official, parameter.shape)))
    return network.set_train(False)

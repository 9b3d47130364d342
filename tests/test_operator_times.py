"""tools/operator_times.py: operators by kind, and what they add up to."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from tests.helpers.scripts import call
from tools import operator_times


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.body = nn.SequentialCell(nn.Conv2d(8, 8, 5, group=8, pad_mode="pad", padding=2), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def construct(self, x):
        return self.head(self.body(self.stem(x)))


def test_operators_are_found_with_kind_and_cell():
    images = ms.Tensor(np.ones((2, 3, 16, 16), np.float32))
    net = Net()
    operators, whole = operator_times.profile(lambda: net(images), net, 2)
    found = {operator.cell: operator for operator in operators}
    assert {cell: found[cell].kind for cell in ("stem", "body.0", "head")} == {
        "stem": "convolution 3x3 stride 2", "body.0": "convolution 5x5 depthwise", "head": "convolution 1x1",
    }  # fmt: skip
    assert [operator.kind for operator in operators].count("ReLU") == 1
    assert min(whole, *(operator.milliseconds for operator in operators)) > 0


class Gradient(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.gradient = ms.grad(self.total, None, net.trainable_params())

    def total(self, x):
        return self.net(x).sum()

    def construct(self, x):
        return self.gradient(x)[0]


def test_gradients_belong_to_their_cells():
    images = ms.Tensor(np.ones((2, 3, 16, 16), np.float32))
    step = Gradient(Net().set_train())
    operators, _ = operator_times.profile(lambda: step(images), step, 2)
    kinds = [(operator.cell, operator.kind) for operator in operators]
    assert kinds.count(("net.stem", "convolution 3x3 stride 2")) == 1
    assert kinds.count(("net.stem", "convolution 3x3 stride 2 backward")) == 1  # of its kernel
    assert kinds.count(("net.head", "convolution 1x1 backward")) == 1  # of its input


@pytest.mark.parametrize(
    ("primitive", "cell", "kind"),
    [
        ("Custom", nn.Conv2d(8, 8, 7, 2, pad_mode="pad", padding=3, group=8),
         "convolution 7x7 stride 2 depthwise in C++"),
        ("Conv2D", nn.Conv2d(8, 8, 3, group=2), "convolution 3x3 grouped"),
        ("BiasAdd", nn.Conv2d(8, 8, 3), "BiasAdd"),
        ("Conv2D", None, "Conv2D"),
        ("Custom", nn.LayerNorm((8,)), "LayerNorm in C++"),
        ("Custom", None, "Custom"),
        ("GraphKernel_Mul_Add_fusion", None, "fused arithmetic"),
    ],
)  # fmt: skip
def test_kinds(primitive, cell, kind):
    assert operator_times._kind(primitive, cell) == kind


def test_the_table_adds_up(capsys):
    operators = [operator_times.Operator("MatMul", f"layers.{i}", 2.0 + i) for i in range(3)]
    operator_times.show([*operators, operator_times.Operator("ReLU", "act", 0.5)], 12.0, cells=1)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [["MatMul", "3", "9.00", "75.0%"], ["between", "operators", "2.50", "20.8%"],
                          ["ReLU", "1", "0.50", "4.2%"], ["total", "per", "call", "4", "12.00"]]  # fmt: skip
    assert lines[6:] == [["4.00", "ms", "MatMul", "layers.2"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "fastvit_t9"], "unknown model 'fastvit_t9': did you mean fastvit_t8?"),
        (["--steps", "0"], "steps is 0, but must be at least 1."),
        (["--cells", "-1"], "cells is -1, but must not be negative."),
        (["--train", "perhaps"], "train is 'perhaps'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(monkeypatch, capsys, arguments, message):
    status, _, error = call("tools.operator_times", arguments, monkeypatch, capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error

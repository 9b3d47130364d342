"""Graphs that an earlier process compiled: found by everything that they are made of, never by less."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_models.graph_cache import UndescribedError, fingerprint
from tests.helpers.launch import PATIENCE

ROOT = Path(__file__).parents[1]


class Net(nn.Cell):
    def __init__(self, factor=2.0, shift=(1, 2, 3), channels=3):
        super().__init__()
        self.factor = factor
        self.shift = Tensor(np.array(shift, np.float32))
        self.dense = nn.Dense(3, channels, weight_init="ones")
        self.pool = ops.ReduceMean(keep_dims=True)
        self.twice = lambda x: x * factor

    def construct(self, x):
        return self.twice(self.pool(self.dense(x + self.shift), 1))


def digest(net=None, shape=(2, 3), dtype=ms.float32):
    return fingerprint(net or Net(), (Tensor(np.ones(shape), dtype),))


def test_equal_networks_have_one_digest_whatever_their_weights():
    other = Net()
    other.dense.weight.set_data(Tensor(np.zeros((3, 3), np.float32)))
    assert digest() == digest(other)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: digest(Net(factor=2.5)),
        lambda: digest(Net(shift=(1, 2, 4))),
        lambda: digest(Net(channels=4)),
        lambda: digest(Net().set_train()),
        lambda: digest(shape=(4, 3)),
        lambda: digest(dtype=ms.float16),
        lambda: digest(frozen()),
        lambda: digest(with_other_operator()),
    ],
    ids=["number", "constant", "parameter", "training", "shape", "type", "frozen", "operator"],
)
def test_what_changes_the_graph_changes_the_digest(changed):
    assert changed() != digest()


def frozen():
    net = Net()
    net.dense.weight.requires_grad = False
    return net


def with_other_operator():
    net = Net()
    net.pool = ops.ReduceMean(keep_dims=False)
    return net


def test_versions_and_settings_change_the_digest(monkeypatch):
    before = digest()
    monkeypatch.setenv("MS_DEV_SOMETHING", "1")
    assert digest() != before
    monkeypatch.delenv("MS_DEV_SOMETHING")
    assert digest() == before
    monkeypatch.setattr(ms, "__version__", "2.8.1")
    assert digest() != before


def test_what_cannot_be_described_is_refused():
    net = Net()
    net.source = iter([1, 2])
    with pytest.raises(UndescribedError, match=r"Net\.source: builtins\.list_iterator"):
        digest(net)
    net = Net()
    object.__setattr__(net, "double", Parameter(Tensor([1.0]), name="dense.weight"))
    with pytest.raises(UndescribedError, match=r"two parameters are called dense\.weight"):
        digest(net)


NETWORK = """
from mindspore import Parameter, Tensor, nn, ops

class Net(nn.Cell):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.weight = Parameter(Tensor([1.0, 2.0]), name="weight")
        object.__setattr__(self, "outside", Parameter(Tensor([0.0, 0.0]), name="outside"))

    def construct(self, x):
        return ops.depend(x * self.weight * self.factor + self.outside, ops.assign_add(self.weight, x))
"""
SCRIPT = """
import sys
import mindspore as ms
from network import Net
from mindcv_models import backend
from mindcv_models.graph_cache import compile_cached

ms.set_context(mode=ms.GRAPH_MODE)
backend.fuse_elementwise()
net, x = Net(float(sys.argv[1])), ms.Tensor([1.0, 1.0])
net.outside.set_data(ms.Tensor([float(sys.argv[2])] * 2))
print(compile_cached(net, x), net(x).asnumpy().tolist(), net.weight.asnumpy().tolist())
"""


@pytest.mark.process
def test_a_later_process_reads_a_graph_only_if_nothing_changed(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    cache = tmp_path / "cache"

    def outcome(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINDCV_MODELS_GRAPH_CACHE": "1", "GLOG_v": "3"}
        environment["MS_COMPILER_CACHE_PATH"] = str(cache)
        command = [sys.executable, str(tmp_path / "script.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip().splitlines()[-1]

    assert outcome("2", "0") == "written [2.0, 4.0] [2.0, 3.0]"
    assert outcome("2", "5") == "read [7.0, 9.0] [2.0, 3.0]"  # with parameters of its own
    assert outcome("3", "0") == "written [3.0, 6.0] [2.0, 3.0]"
    (tmp_path / "network.py").write_text(NETWORK.replace("* self.factor", "- self.factor"))
    assert outcome("2", "0") == "written [-1.0, 0.0] [2.0, 3.0]"
    for graph in cache.glob("graphs/*/*.mindir"):
        graph.chmod(0o600)
        graph.write_bytes(graph.read_bytes()[:-1])
    assert outcome("2", "0") == "written [-1.0, 0.0] [2.0, 3.0]"

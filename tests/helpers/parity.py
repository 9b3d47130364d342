"""Reference cases: what the official PyTorch models gave on weights and images that can be rebuilt from their names.

Every array depends on its PyTorch name, its shape and a salt alone, through NumPy's frozen ``RandomState`` stream, so
a checkpoint of any model is rebuilt here in memory. Every term matters: statistics, scales and offsets are far from
their initial values.
"""

import functools
import gzip
import hashlib
import json
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

DATA = Path(__file__).parents[1] / "data"


def _stream(key):
    return np.random.RandomState(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"))


def parameter(name, shape, salt="parity"):
    """The float32 array of the PyTorch state-dict entry ``name`` (int64 for counters), read-only.

    All but the largest are kept, as many as one network has: test after test fills the same one.
    """
    make = _kept if np.prod(shape, dtype=np.int64) < 2**22 else _drawn
    return make(name, tuple(shape), salt)


def _drawn(name, shape, salt):
    rng = _stream(f"{salt}:{name}")
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        value = np.zeros(shape, np.int64)
    elif leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        value = 0.1 * rng.standard_normal(shape)
    elif leaf.startswith(("gamma", "layer_scale")):
        value = rng.uniform(0.3, 0.7, shape)
    elif len(shape) == 1 and leaf == "weight":
        value = rng.uniform(0.8, 1.2, shape)
    elif len(shape) <= 1:
        value = 0.05 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    value = np.asarray(value, np.int64 if leaf == "num_batches_tracked" else np.float32)
    value.flags.writeable = False
    return value


_kept = functools.lru_cache(maxsize=1024)(_drawn)


def images(count, height, width, salt="parity"):
    """A standard normal batch ``(count, 3, height, width)``, float32."""
    stream = _stream(f"{salt}:images:{count}x{height}x{width}")
    return stream.standard_normal((count, 3, height, width)).astype(np.float32)


def inputs(case):
    """The images of a reference case, as a tensor."""
    count, _, height, width = case["image_shape"]
    return ms.Tensor(images(count, height, width, case["salt"]))


def labels(count, classes, salt="parity"):
    """Class indices ``(count,)``, int64."""
    return _stream(f"{salt}:labels:{count}x{classes}").randint(0, classes, count).astype(np.int64)


def cases(family):
    """The reference cases of a family, as ``tests/data/<family>/cases.json`` lists them."""
    return json.loads((DATA / family / "cases.json").read_text())


def case(family, name):
    return next(case for case in cases(family) if case["id"] == name)


def reference(family, case):
    """The arrays that the official model gave in ``case``."""
    return np.load(DATA / family / case["file"])


def manifest(family):
    """Every state-dict name and shape of every official variant of ``family``, at 1000 classes."""
    with gzip.open(DATA / family / "manifests.json.gz") as file:
        return json.load(file)


def state_dict(shapes, salt="parity", layer_scale_factor=1):
    """A whole state dict for ``{name: shape}``; layer scales multiplied by ``layer_scale_factor``."""
    tensors = {}
    for name, shape in shapes.items():
        value = parameter(name, shape, salt)
        if name.rsplit(".", 1)[-1].startswith(("gamma", "layer_scale")):
            value = value * np.float32(layer_scale_factor)
        tensors[name] = value
    return tensors


def sample(array, count=16):
    """``count`` values spread evenly over a flattened array, as the reference data takes them."""
    return array.reshape(-1)[np.floor(np.linspace(0, array.size - 1, count)).astype(int)]


def statistics(array):
    """Mean, deviation, least and largest value, computed in float64."""
    values = array.astype(np.float64)
    return [values.mean(), values.std(), values.min(), values.max()]


class GradientStep(nn.Cell):
    """The mean cross entropy of a batch, and its gradients by every trainable parameter, as one graph."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.gradient = ms.value_and_grad(self.loss, None, list(network.trainable_params()))

    def loss(self, x, y):
        return ops.cross_entropy(self.network(x), y)

    def construct(self, x, y):
        return self.gradient(x, y)

"""Every operator that the networks compile to is one that MindSpore documents for Ascend, GPU and CPU.

On the CPU some cells take a form of their own (see ``backend``), so each network is exported in both forms. What is
checked is MindSpore's documentation, not a run on those devices: the graph for inference, the losses of the dense
models, and the gradients of these as far as the documentation speaks of them.
"""

import contextlib
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.ops import auto_generate, operations

import mindcv_models
from mindcv_models import backend
from mindcv_models.detection.options import TrainOptions
from mindcv_models.detection.systems import system_of
from mindcv_models.graph import capture
from mindcv_models.segmentation.objective import SegmentationObjective
from tests.helpers import dense_tiny, parity, tiny_detector  # noqa: F401, they register networks
from tests.helpers.networks import filled, make_shallow

PLATFORMS = {"Ascend", "GPU", "CPU"}
FORMS = ("CPU", "Ascend")  # GPU compiles what Ascend does, as the first test shows

# Operators whose own documentation is silent, and the documented function that becomes them.
DOCUMENTED_AS = {"MatMulExt": "matmul", "Muls": "mul"}  # Muls: by a number, as Tensor.mul and * do
# Nodes that no device computes, so that none is documented for them.
STRUCTURE = {
    "Constant": "a value stored in the graph",
    "Load": "reads a parameter; the graph's own",
    "MakeTuple": "groups values; the graph's own",
    "TupleGetItem": "takes a value out of a group; the graph's own",
    "UpdateState": "orders side effects; the graph's own",
    "make_list": "groups values; the graph's own",
}

# What MindSpore's own gradients put into a graph and document for no call by hand, or for one platform.
IN_GRADIENTS = {
    "Conv2DBackpropInput": "the gradient of Conv2D, deprecated as an operator to call",
    "PowTensorScalar": "in the gradient of Erf",
}

# Sizes at which all is compiled that depends on them: several windows with carriers, grids that are not square,
# padding and cropping.
NETWORKS = {
    "fastvit_t8, fused": ("fastvit_t8", 64, 64, {}),
    "fastvit_sa12": ("fastvit_sa12", 64, 64, {}),
    "faster_vit_0_224": ("faster_vit_0_224", 224, 224, {}),
    "faster_vit_0_any_res": (
        "faster_vit_0_any_res", 250, 330, {"do_propagation": True, "layer_scale": 0.1},
    ),
    "litv2_s": ("litv2_s", 90, 100, {}),
}  # fmt: skip


@contextlib.contextmanager
def building_for(device):
    """Let cells choose their form as they would on ``device``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "device_target", lambda: device)
        backend._fused_kernels.cache_clear()
        try:
            yield
        finally:
            backend._fused_kernels.cache_clear()


def compiled_operators(network, *shape):
    """The names of all operators in the graph of ``network`` for an input of ``shape``."""
    return {node.primitive for node in capture(network, shape).nodes}


def documented_platforms(operator):
    """The platforms that MindSpore's documentation names for ``operator``, or None where it names none.

    That is the documentation of its class, else of the function that this refers to, else of ``DOCUMENTED_AS``.
    """
    texts = [getattr(place, operator, None).__doc__ or "" for place in (ops, operations, auto_generate)]
    functions = re.findall(r"Refer to :func:`mindspore\.ops\.(\w+)`", " ".join(texts))
    functions += [DOCUMENTED_AS[operator]] if operator in DOCUMENTED_AS else []
    texts += [getattr(place, name, None).__doc__ or "" for name in functions for place in (ops, auto_generate)]
    for text in texts:
        line = re.search(r"Supported Platforms:\s*\n(.*)", text)
        if line:
            return set(re.findall("Ascend|GPU|CPU", line[1]))
    return None


def check_documented(operators, silent_ones=False):
    """Fail with each of ``operators`` that is not documented for all platforms, and those it is documented for.

    Args:
        silent_ones: let operators pass of which the documentation names no platform, as it does of most gradients.
    """
    found = {
        name: documented_platforms(name)
        for name in sorted(set(operators) - set(STRUCTURE) - set(IN_GRADIENTS if silent_ones else ()))
    }
    short = [
        f"{name}: {', '.join(sorted(platforms)) if platforms else 'no platform'}"
        for name, platforms in found.items()
        if not (silent_ones if platforms is None else platforms >= PLATFORMS)
    ]
    if short:
        pytest.fail(f"not documented for Ascend, GPU and CPU: {'; '.join(short)}")


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_only_the_cpu_has_forms_of_its_own(device):
    with building_for(device):
        assert not backend.fuse_elementwise()
        assert backend.compile_library(Path("depthwise.cc")) is None
        assert not backend.average_by_matmul()


@pytest.mark.process
@pytest.mark.parametrize("device", FORMS)
@pytest.mark.parametrize("case", NETWORKS)
def test_every_operator_is_documented_for_every_platform(case, device, monkeypatch):
    name, height, width, options = NETWORKS[case]
    make_shallow(monkeypatch, (1, 1, 1, 1))
    with building_for(device):
        network = mindcv_models.create_model(name, num_classes=5, **options).set_train(False)
        if "fused" in case:
            network = mindcv_models.reparameterize(network)
        fused = backend.fuse_elementwise()
        operators = compiled_operators(network, 1, 3, height, width)
    assert {"Conv2D", "Add"} <= operators
    of_devices, of_the_cpu = {"Erf", "BatchNorm", "ReduceMean"}, {"Custom"}  # this is the form that was asked for
    assert operators >= (of_the_cpu if fused else of_devices)
    assert not operators & (of_devices if fused else of_the_cpu)
    check_documented(operators)


@pytest.mark.parametrize(
    ("operator", "platforms"),
    [("LayerNormExt", "Ascend"), ("BesselI0", "CPU, GPU"), ("Conv2DExt", "no platform"), ("Nowhere", "no platform")],
)
def test_an_operator_that_lacks_a_platform_is_named(operator, platforms):
    with pytest.raises(pytest.fail.Exception, match=rf"GPU and CPU: {operator}: {platforms}$"):
        check_documented({"Add", "MakeTuple", operator})


def test_an_operator_that_lacks_a_platform_is_found_in_a_graph():
    class Norm(nn.Cell):
        def construct(self, x):
            return ops.relu(ops.layer_norm(x, (4,)))

    operators = compiled_operators(Norm(), 2, 4)
    assert operators >= {"LayerNormExt", "ReLU"}
    with pytest.raises(pytest.fail.Exception, match=r"GPU and CPU: LayerNormExt: Ascend$"):
        check_documented(operators)


def test_the_silent_operators_come_from_the_functions_named():
    class Silent(nn.Cell):
        def construct(self, x):
            return ops.matmul(x, x).mul(2.0)

    assert compiled_operators(Silent(), 2, 3, 4, 4) >= set(DOCUMENTED_AS)


@pytest.mark.process
@pytest.mark.parametrize("name", ["fastvit_t8", "litv2_s"])
def test_both_forms_give_the_same_logits(name, monkeypatch):
    make_shallow(monkeypatch, (1, 1, 1, 1))
    networks = {}
    for device in FORMS:
        with building_for(device):
            networks[device] = mindcv_models.create_model(name).set_train(False)
    weights = filled(networks["CPU"]).parameters_dict()
    assert ms.load_param_into_net(networks["Ascend"], weights, strict_load=True) == ([], [])
    x = ms.Tensor(parity.images(2, 64, 64))
    expected, logits = (networks[device](x).asnumpy() for device in FORMS)
    assert np.isfinite(expected).all() and np.ptp(expected) > 0
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Loss(nn.Cell):
    """The loss of a dense model on targets that are given."""

    def __init__(self, objective, targets):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.targets = tuple(ms.Tensor(each) for each in targets)

    def construct(self, images):
        return self.objective(images, *self.targets)[0]


class Gradients(nn.Cell):
    """The gradients of a loss by all parameters."""

    def __init__(self, loss):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.gradients = ms.grad(loss, None, loss.trainable_params())

    def construct(self, images):
        return self.gradients(images)


SIZE = (64, 96)
# Operators that show that the graph is the one that was asked for.
LOSSES = {
    "retinanet": {"ResizeNearestNeighborV2", "Log1p", "Exp", "Concat"},
    "semantic_fpn": {"ResizeBilinearV2", "ResizeNearestNeighborV2", "Argmax", "GatherD", "Exp", "Log"},
    "mask_rcnn": {"TopK", "Gather", "Log1p", "Sigmoid", "AvgPool", "Tile"},
}
# What loops in C++ stand for on the CPU.
LOOPS_ON_CPU = {"semantic_fpn": {"ResizeBilinearV2", "Argmax", "GatherD", "Exp", "Log"}}


# What LITv2 adds in training is seen with the one that compiles fastest.
BACKBONES = {"retinanet": "litv2_s", "semantic_fpn": "tiny_maps", "mask_rcnn": "tiny_pyramid"}


def loss_of(system):
    """The loss of a shallow model over one block a stage, in training."""
    options = {"channels": 8, **({} if system == "semantic_fpn" else {"convs": 1})}
    network = mindcv_models.create_model(system, backbone=BACKBONES[system], num_classes=5, **options)
    if system == "semantic_fpn":
        return Loss(SegmentationObjective(network, dice_weight=1.0), [np.zeros((1, *SIZE), np.int32)]).set_train()
    found = system_of(system)
    training = TrainOptions(model=system, batch_size=1, num_classes=5, regions=16, region_samples=8, hflip=0.0)
    return Loss(found.objective(training, network), found.example(training, SIZE)[1:]).set_train()


@pytest.mark.process
@pytest.mark.parametrize("device", FORMS)
@pytest.mark.parametrize("system", LOSSES)
def test_a_dense_models_loss_has_documented_operators_only(system, device, monkeypatch):
    make_shallow(monkeypatch, (1, 1, 1, 1))
    with building_for(device):
        operators = compiled_operators(loss_of(system), 1, 3, *SIZE)
    replaced = LOOPS_ON_CPU.get(system, set()) if device == "CPU" else set()
    assert operators >= (LOSSES[system] - replaced) | ({"Custom"} if replaced else set())
    assert operators.isdisjoint(replaced)
    check_documented(operators)


@pytest.mark.process
@pytest.mark.parametrize(
    "system", [name if name == "retinanet" else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
def test_no_gradient_of_a_dense_model_is_documented_for_some_platforms_alone(system, monkeypatch):
    make_shallow(monkeypatch, (1, 1, 1, 1))
    with building_for("Ascend"):
        operators = compiled_operators(Gradients(loss_of(system)), 1, 3, *SIZE)
    assert operators >= {"Conv2DBackpropFilter", "BatchNormGrad", "ReluGrad"}
    check_documented(operators, silent_ones=True)

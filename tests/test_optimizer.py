"""Optimizers against their formulas in NumPy, and parameter groups, seen in what updates do."""

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

import mindcv_models
from mindcv_models.classification.objective import ClassificationObjective
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.options import RunOptions, parse
from mindcv_models.training import CurvatureStep, LossScale, Schedule, TrainStep, build_optimizer
from mindcv_models.training.groups import freeze, layer_of_parameters, parameter_groups
from tests.helpers.networks import Linear, create, data

RATE, DECAY = 0.1, 0.5


class Weights(nn.Cell):
    def __init__(self):
        super().__init__()
        self.slow = Parameter(Tensor(np.ones((2, 2), np.float32)))
        self.fast = Parameter(Tensor(np.ones((2, 2), np.float32)))
        self.bias = Parameter(Tensor(np.ones(2, np.float32)))


class Scaled(Weights):
    def lr_scale(self):
        return {"slo*": 0.01}


class Block(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, has_bias=True)
        self.norm = nn.BatchNorm2d(2)
        self.free = nn.BatchNorm2d(2, affine=False)
        self.head = nn.Dense(2, 4)

    def construct(self, x):
        return self.head(self.free(self.norm(self.conv(x))).mean((2, 3)))


def options_for(**changes):
    constant = {"scheduler": "constant", "warmup_epochs": 0, "epoch_size": 4, "lr": RATE, "min_lr": 0.0}
    return RunOptions(**{**constant, "momentum": 0.0, "weight_decay": DECAY, **changes})


def optimizer_for(network, **changes):
    options = options_for(**changes)
    return build_optimizer(options, network, Schedule(options, 1))


def update(network, **changes):
    """What one step of SGD with unit gradients takes away from each parameter."""
    optimizer = optimizer_for(network, opt="sgd", **changes)
    optimizer(tuple(Tensor(np.ones(p.shape, np.float32)) for p in network.trainable_params()))
    return {p.name: 1 - p.asnumpy().mean() for p in network.trainable_params()}


def adamw(w, gradients, decay, betas=(0.9, 0.999), eps=1e-8):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        w = w - RATE * (m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * w)
    return w


def lamb(w, gradients, decay):
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        change = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
        if decay:
            change = change + decay * w
            change = change * np.linalg.norm(w) / np.linalg.norm(change) if np.any(w) else change
        w = w - RATE * change
    return w


def lion(w, gradients, decay):
    m = 0
    for g in gradients:
        w = w - RATE * (np.sign(0.9 * m + 0.1 * g) + decay * w)
        m = 0.99 * m + 0.01 * g
    return w


def sophia(w, gradients, decay):
    """Without a curvature every direction is clipped."""
    m = 0
    for g in gradients:
        m = 0.965 * m + 0.035 * g
        w = w - RATE * decay * w
        w = w - RATE * np.sign(m)
    return w


@pytest.mark.parametrize(
    ("opt", "formula"),
    [("adamw", adamw), ("lamb", lamb), ("lion", lion), ("sophiag", sophia)],
    ids=["adamw", "lamb", "lion", "sophiag"],
)
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_updates_follow_the_formula(opt, formula, mode):
    ms.set_context(mode=mode)
    network = Weights()
    network.fast.set_data(Tensor(np.zeros((2, 2), np.float32)))
    start = {p.name: p.asnumpy().copy() for p in network.trainable_params()}
    optimizer = optimizer_for(network, opt=opt, weight_decay_filter="norm_and_bias")
    rng = np.random.RandomState(0)
    steps = [[rng.uniform(-0.2, 0.2, p.shape).astype(np.float32) for p in network.trainable_params()] for _ in range(4)]
    for gradients in steps:
        optimizer(tuple(Tensor(g) for g in gradients))
    for i, parameter in enumerate(network.trainable_params()):
        gradients = [np.float64(step[i]) for step in steps]
        expected = formula(np.float64(start[parameter.name]), gradients, 0 if parameter.name == "bias" else DECAY)
        np.testing.assert_allclose(parameter.asnumpy(), expected, rtol=2e-5, atol=2e-6, err_msg=parameter.name)


def test_betas_and_epsilon_reach_the_optimizer():
    network = Weights()
    optimizer = optimizer_for(network, opt="adamw", opt_betas=(0.5, 0.8), opt_eps=0.1)
    gradients = [np.full((2, 2), value, np.float32) for value in (0.3, -0.1)]
    for g in gradients:
        optimizer((Tensor(g), Tensor(g), Tensor(g[0])))
    np.testing.assert_allclose(network.slow.asnumpy(), adamw(1.0, gradients, DECAY, (0.5, 0.8), 0.1), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opt": "lion", "opt_eps": 1e-8}, "opt_eps is 1e-08, but lion does not take it"),
        ({"opt": "sgd", "opt_betas": (0.9, 0.9)}, r"opt_betas is \(0.9, 0.9\), but sgd does not take it"),
    ],
)
def test_an_option_that_the_optimizer_has_not_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        optimizer_for(Weights(), **changes)


def sophia_step(network, optimizer, loss_scale=None, **kwargs):
    objective, loss_scale = ClassificationObjective(network, nn.CrossEntropyLoss()), loss_scale or LossScale()
    curvature = CurvatureStep(objective, optimizer, loss_scale, ONE_DEVICE)
    return TrainStep(objective, optimizer, loss_scale, curvature=curvature, **kwargs)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sophia_estimates_the_curvature_every_k_updates_from_labels_that_it_draws(accumulate):
    network = Linear()
    options = options_for(opt="sophiag", sophia_k=2, sophia_rho=0.5, weight_decay=0.0)
    optimizer = build_optimizer(options, network, Schedule(options, 1))
    step = sophia_step(network, optimizer, LossScale(8.0), accumulate=accumulate)
    x, _ = data()
    h, draws = np.zeros((3, 2)), optimizer.uniform.asnumpy()
    assert abs(draws.mean() - 0.5) < 0.01
    for update in range(4):
        if update % 2 == 0:
            logits = x @ network.w.asnumpy()
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            drawn = (draws[update * 2 : update * 2 + 4] > p[:, 0]).astype(int)
            gradient = x.T @ (p - np.eye(2)[drawn]) / 4
            h = 0.99 * h + 0.01 * 4 * gradient**2
        for _ in range(accumulate):
            step(Tensor(x), Tensor(np.ones(4, np.int32)))
        np.testing.assert_allclose(optimizer.h[0].asnumpy(), h, rtol=1e-4)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "PyNative"])
def test_sophias_estimate_leaves_the_statistics_of_batch_normalisation_alone(mode):
    ms.set_context(mode=mode)
    images, labels = Tensor(np.random.RandomState(0).randn(4, 3, 2, 2), ms.float32), Tensor([0, 1, 2, 3], ms.int32)
    statistics = []
    for opt in ("adamw", "sophiag"):
        ms.set_seed(0)
        network = Block()
        objective = ClassificationObjective(network, nn.CrossEntropyLoss())
        TrainStep(objective, optimizer_for(network, opt=opt))(images, labels)
        statistics.append([p.asnumpy() for p in network.get_parameters() if "moving_" in p.name])
    assert len(statistics[0]) == 4
    for expected, own in zip(*statistics):
        np.testing.assert_array_equal(own, expected)
    assert np.abs(statistics[1][0]).min() > 1e-3


def test_sophia_moves_by_its_momentum_over_the_curvature_and_clips():
    network = Weights()
    optimizer = optimizer_for(network, opt="sophiag", sophia_rho=0.5, weight_decay=0.0)
    optimizer.h[0].set_data(Tensor([[1.0, 1e-3], [4.0, 1.0]], ms.float32))
    gradient = np.array([[2.0, 2.0], [-2.0, 40.0]], np.float32)
    optimizer((Tensor(gradient), Tensor(gradient), Tensor(gradient[0])))
    moved = np.clip(0.035 * gradient / (0.5 * np.array([[1.0, 1e-3], [4.0, 1.0]])), -1, 1)
    np.testing.assert_allclose(network.slow.asnumpy(), 1 - RATE * moved, rtol=1e-5)


def test_lr_scale_multiplies_the_peak_of_the_parameters_it_names():
    plain, scaled = update(Weights()), update(Scaled())
    assert plain["slow"] == pytest.approx(0.15)
    assert scaled == {**plain, "slow": pytest.approx(0.0015, abs=1e-6)}


def test_litv2s_offsets_stay_at_the_smallest_rate_after_the_warm_up():
    options = RunOptions(lr=1e-3, min_lr=1e-5, warmup_factor=1e-3, warmup_epochs=2, decay_epochs=8, epoch_size=10)
    schedule = Schedule(options, 5)
    rate = schedule.rate(peak=0.01)
    rates = [float(rate(Tensor(step, ms.int32)).asnumpy()) for step in range(50)]
    assert rates[0] == pytest.approx(1e-6) == pytest.approx(schedule.at(0))
    assert rates[10:] == pytest.approx([1e-5] * 40)


@pytest.mark.parametrize("network", [Weights, Scaled])
def test_weight_decay_spares_biases_when_told_to(network):
    taken = update(network(), weight_decay_filter="norm_and_bias")
    assert taken["bias"] == pytest.approx(0.1)
    assert taken["fast"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("choice", "spared"),
    [("disable", set()), ("auto", {"norm.gamma", "norm.beta"}),
     ("norm_and_bias", {"norm.gamma", "norm.beta", "conv.bias", "head.bias"})],
)  # fmt: skip
def test_what_each_filter_spares(choice, spared):
    network = Block()
    groups = parameter_groups(options_for(weight_decay_filter=choice), network)
    found = {p.name for group in groups for p in group.parameters if group.weight_decay == 0}
    assert found & {p.name for p in network.trainable_params()} == spared


def test_layer_decay_slows_early_layers_and_composes_with_lr_scale():
    network = mindcv_models.create_model("litv2_s", num_classes=10)
    layers = layer_of_parameters(network)
    groups = parameter_groups(options_for(layer_decay=0.5, weight_decay_filter="norm_and_bias"), network)
    found = {p.name: group for group in groups for p in group.parameters}
    assert found.keys() == {p.name for p in network.trainable_params()}
    last = layers["head.weight"]
    assert found["head.weight"].scale == 1
    for name, group in found.items():
        assert group.scale == pytest.approx(0.5 ** (last - layers[name]))
        assert group.peak == (0.01 if name.endswith("conv_offset.weight") else 1)
        assert group.weight_decay == (0 if name.endswith(("bias", "gamma", "beta")) else DECAY)


@pytest.mark.parametrize(
    ("model", "order"),
    [
        ("fastvit_t8", ["patch_embed.0", "patch_embed.2", "network.0.0", "network.0.1", "network.1", "network.2.0",
                        "network.6.1", "conv_exp", "head"]),
        ("faster_vit_0_224", ["patch_embed", "levels.0.blocks.0", "levels.0.blocks.1", "levels.0.downsample",
                              "levels.1.blocks.0", "levels.2.blocks.5", "levels.3.blocks.4", "norm", "head"]),
        ("litv2_s", ["patch_embed", "layers.0.blocks.0", "layers.0.blocks.1", "layers.0.downsample",
                     "layers.1.blocks.0", "layers.3.blocks.1", "norm", "head"]),
        ("resnet18", ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer4.1", "classifier"]),
    ],
)  # fmt: skip
def test_layers_are_in_the_order_of_the_network(model, order):
    layers = layer_of_parameters(mindcv_models.create_model(model, num_classes=10))
    depths = []
    for prefix in order:
        depth = {depth for name, depth in layers.items() if name.startswith(f"{prefix}.")}
        assert len(depth) == 1, prefix
        depths.extend(depth)
    assert depths == sorted(set(depths))
    assert depths[0] == 0
    assert depths[-1] == max(layers.values())


@pytest.mark.parametrize("backbone", ["litv2_s", "resnet18"])
def test_layers_of_a_backbone_are_those_of_the_classifier_and_the_rest_is_one_more(backbone):
    classifier = create(backbone, num_classes=10)
    detector = create("retinanet", num_classes=3, backbone=backbone)
    expected, layers = layer_of_parameters(classifier), layer_of_parameters(detector)
    assert layers.keys() == {parameter.name for parameter in detector.get_parameters()}
    shared = [name for name in expected if f"backbone.{name}" in layers]
    assert len(shared) > 50
    assert all(layers[f"backbone.{name}"] == expected[name] for name in shared)
    rest = {depth for name, depth in layers.items() if name.startswith(("neck.", "bbox_head."))}
    assert rest == {max(layers.values())}
    assert max(expected[name] for name in shared) < max(layers.values())


@pytest.mark.parametrize(("patterns", "learning"), [(["conv.*", "norm.*"], ()), ([], ("head",))])
def test_frozen_parameters_and_the_statistics_of_their_norms_stand_still(patterns, learning):
    network = Block()
    assert freeze(network, patterns, learning) == 4
    assert [p.name for p in network.trainable_params()] == ["head.weight", "head.bias"]
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    optimizer = optimizer_for(network, opt="adamw")
    step = TrainStep(ClassificationObjective(network, nn.CrossEntropyLoss()), optimizer)
    images = np.random.RandomState(0).randn(4, 3, 2, 2).astype(np.float32)
    step(Tensor(images), Tensor(np.arange(4, dtype=np.int32)))
    moved = {p.name for p in network.get_parameters() if np.any(p.asnumpy() != before[p.name])}
    assert moved == {"head.weight", "head.bias", "free.moving_mean", "free.moving_variance"}


@pytest.mark.parametrize(
    ("patterns", "learning", "message"),
    [
        (["konv.*"], (), r"freeze 'konv.\*' matches no parameter that learns: did you mean conv.\*\?"),
        (["*"], (), "freeze leaves nothing to train"),
        (["head.*"], ("head",), "freeze leaves nothing to train"),
    ],
)
def test_a_freeze_that_cannot_be_meant_is_refused(patterns, learning, message):
    with pytest.raises(InputError, match=message):
        freeze(Block(), patterns, learning)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opt", "sofia"], "opt is 'sofia', which is not known: did you mean sophiag?"),
        (["--opt_betas", "0.9"], "opt_betas is 0.9, but must be two numbers, such as 0.9 0.999."),
        (["--opt_betas", "0.9", "1"], "opt_betas is 0.9 1.0, but must be at least 0 and below 1."),
        (["--opt_eps", "0"], "opt_eps is 0.0, but must be above 0."),
        (["--sophia_rho", "0"], "sophia_rho is 0.0, but must be above 0."),
        (["--sophia_k", "0"], "sophia_k is 0, but must be at least 1."),
        (["--layer_decay", "1.5"], "layer_decay is 1.5, but must be above 0 and at most 1."),
    ],
)
def test_values_that_no_optimizer_can_have_are_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(RunOptions, "test", arguments)

"""LITv2 against the official PyTorch release: eagerly, one case compiled; the exhaustive run compiles all."""

import fnmatch
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

import mindcv_models
from mindcv_models.checkpoint.names import torch_names
from mindcv_models.checkpoint.torch_weights import load_torch_state_dict
from mindcv_models.classification.options import TrainOptions
from mindcv_models.errors import InputError
from mindcv_models.models.litv2 import VARIANTS, HiLo
from mindcv_models.options import parse
from tests.helpers import parity
from tests.helpers.networks import create

pytestmark = [pytest.mark.usefixtures("both_modes"), pytest.mark.process]

FAMILY = "litv2"
CASES = parity.cases(FAMILY)
FAST = ("litv2_s", "litv2_s_alpha_0.2", "det_s_ws4_250x330", "train5_litv2_s_lr1e-5")

CONFIGS = Path(__file__).parents[1] / "configs" / "litv2"

# Tolerances of section 14 of the specification.
LOGITS, STATISTICS, HILO, DENSE = 1e-4, 3e-4, 1e-5, 3e-4

# Section 2: parameters of the classifiers, by variant and share of low-frequency heads.
PARAMETERS = {
    ("litv2_s", 0.9): 27_844_000,
    ("litv2_s", 0.0): 28_089_760,
    ("litv2_s", 0.2): 27_844_000,
    ("litv2_s", 0.4): 27_696_544,
    ("litv2_s", 0.5): 27_647_392,
    ("litv2_s", 0.7): 27_696_544,
    ("litv2_s", 1.0): 28_089_760,
    ("litv2_m", 0.9): 48_830_368,
    ("litv2_b", 0.9): 86_520_704,
    ("litv2_b_384", 0.9): 86_520_704,
}
# Section 1 of the dense specification.
DENSE_PARAMETERS = {
    ("litv2_s", "detection"): 27_076_152,
    ("litv2_s", "segmentation"): 27_076_344,
    ("litv2_m", "detection"): 48_062_520,
    ("litv2_m", "segmentation"): 48_062_712,
    ("litv2_b", "detection"): 85_497_240,
    ("litv2_b", "segmentation"): 85_497_496,
}


def params(kind):
    """The cases of a kind as test parameters, all but a few marked slow."""
    return [
        pytest.param(case, id=case["id"], marks=[pytest.mark.slow] * (case["id"] not in FAST))
        for case in CASES
        if case["kind"] == kind
    ]


def weights_of(case):
    shapes = dict(parity.manifest(FAMILY)[case["variant"]])
    for name in ("head.weight", "head.bias"):
        if name in shapes:
            shapes[name] = [case["num_classes"], *shapes[name][1:]]
    return parity.state_dict(shapes, case["salt"])


def build(case):
    name = case["variant"].split("_alpha")[0]
    options = {"alpha": case["kwargs"]["alpha"], "num_classes": case["num_classes"]}
    if case["kind"] == "dense_backbone":
        form, name = name.split("_", 1)
        options = {"features_only": True, "dense": {"det": "detection", "seg": "segmentation"}[form]}
        options["window_size"] = case["kwargs"]["local_ws"][2]
    network = create(name, **options)
    load_torch_state_dict(network, weights_of(case))
    return network.set_train(False)


class Stages(nn.Cell):
    """The logits, and the maps that the reference statistics describe."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        x = self.network.patch_embed(x)
        maps = (x,)
        for stage in self.network.layers:
            x = stage(x)
            maps += (x,)
        return self.network.head(self.network.norm(x).mean((2, 3))), maps


@pytest.mark.parametrize("case", params("classification"))
def test_logits_and_stages_equal_the_official_model(case):
    reference = parity.reference(FAMILY, case)
    logits, maps = Stages(build(case))(parity.inputs(case))
    np.testing.assert_allclose(logits.asnumpy(), reference["logits"], rtol=0, atol=LOGITS)
    measured = [parity.statistics(m.asnumpy()) for m in maps]
    np.testing.assert_allclose(measured, reference["stage_stats"], rtol=0, atol=STATISTICS)


def test_compiled_logits_and_stages_equal_the_official_model():
    ms.set_context(mode=ms.GRAPH_MODE)
    test_logits_and_stages_equal_the_official_model(parity.case(FAMILY, "litv2_s"))


def test_logits_in_pynative_mode():
    case = parity.case(FAMILY, "litv2_s_10")
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=False)
    logits = build(case)(parity.inputs(case)).asnumpy()
    np.testing.assert_allclose(logits, parity.reference(FAMILY, case)["logits"], rtol=0, atol=LOGITS)


@pytest.mark.parametrize("case", params("dense_backbone"))
def test_dense_features_equal_the_official_ones(case):
    reference = parity.reference(FAMILY, case)
    maps = [m.asnumpy() for m in build(case)(parity.inputs(case))]
    assert [m.shape for m in maps] == [tuple(shape) for shape in reference["map_shapes"]]
    np.testing.assert_allclose([parity.statistics(m) for m in maps], reference["map_stats"], rtol=0, atol=DENSE)
    for index, array in enumerate(maps):
        means = array.astype(np.float64).mean((0, 2, 3))
        np.testing.assert_allclose(means, reference[f"map{index}_channel_mean"], rtol=0, atol=DENSE)
    np.testing.assert_allclose(maps[3], reference["smallest_map"], rtol=0, atol=DENSE)


@pytest.mark.parametrize("case", [pytest.param(c, id=c["id"]) for c in CASES if c["kind"] == "hilo"])
def test_hilo_alone_equals_the_official_layer(case):
    reference = parity.reference(FAMILY, case)
    options = dict(case["kwargs"])
    height, width = options.pop("H"), options.pop("W")
    layer = HiLo(**options)
    load_torch_state_dict(layer, parity.state_dict(case["parameters"], case["salt"]))
    count, tokens, dim = case["image_shape"]
    x = ms.Tensor(parity.images(count, tokens, dim // 3, case["salt"]).reshape(count, tokens, dim))
    out = layer.set_train(False)(x, height, width).asnumpy().astype(np.float64)
    np.testing.assert_allclose(out[:, ::7], reference["slice"], rtol=0, atol=HILO)
    np.testing.assert_allclose(out.mean(2), reference["token_mean"], rtol=0, atol=HILO)
    np.testing.assert_allclose(out.std(2), reference["token_std"], rtol=0, atol=HILO)
    np.testing.assert_allclose(out.mean(1), reference["channel_mean"], rtol=0, atol=HILO)
    np.testing.assert_allclose(out.std(1), reference["channel_std"], rtol=0, atol=HILO)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.5, 83_467_776), (0.0, 116_207_616), (1.0, 79_629_312), (0.9, 77_697_536)]
)
def test_hilo_flops(alpha, expected):
    assert HiLo(384, num_heads=12, window_size=2, alpha=alpha).flops(14, 14) == expected


def test_hilo_on_its_own():
    layer = HiLo(dim=384, num_heads=12, window_size=2, alpha=0.5)
    assert sum(p.size for p in layer.trainable_params()) == 516_480
    assert layer(ops.ones((64, 196, 384)), 14, 14).shape == (64, 196, 384)
    with pytest.raises(ValueError, match="196 tokens are not a map of 14 x 13"):
        layer(ops.ones((1, 196, 384)), 14, 13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 100, "num_heads": 12}, "does not split"),
        ({"dim": 96, "alpha": 1.5}, "number from 0 to 1"),
        ({"dim": 96, "window_size": 0}, "whole number from 1"),
    ],
)
def test_hilo_refuses_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        HiLo(**options)


@pytest.mark.parametrize(
    ("name", "alpha"), [p if p[0] == "litv2_s" else pytest.param(*p, marks=pytest.mark.slow) for p in PARAMETERS]
)
def test_parameter_counts(name, alpha):
    network = create(name, alpha=alpha)
    assert sum(p.size for p in network.trainable_params()) == PARAMETERS[name, alpha]


@pytest.mark.parametrize(
    ("name", "dense"), [p if p[0] == "litv2_s" else pytest.param(*p, marks=pytest.mark.slow) for p in DENSE_PARAMETERS]
)
def test_dense_parameter_counts(name, dense):
    network = create(name, features_only=True, dense=dense)
    assert sum(p.size for p in network.trainable_params()) == DENSE_PARAMETERS[name, dense]


def test_the_classifier_is_the_head_over_the_features_at_any_size():
    case = parity.case(FAMILY, "litv2_s")
    classifier, tensors = build(case), weights_of(case)
    backbone = create("litv2_s", features_only=True, out_indices=[1, 3])
    trunk = {name: value for name, value in tensors.items() if name.startswith(("patch_embed.", "layers."))}
    load_torch_state_dict(backbone, trunk)
    assert backbone.out_channels == [192, 768]
    assert backbone.out_strides == [8, 32]
    x = ms.Tensor(parity.images(2, 74, 107))
    maps = [m.asnumpy() for m in backbone.set_train(False)(x)]
    assert [m.shape for m in maps] == [(2, 192, 9, 13), (2, 768, 2, 3)]
    tokens = maps[1].astype(np.float64)
    tokens = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
    pooled = tokens.mean((2, 3)) * tensors["norm.weight"] + tensors["norm.bias"]
    expected = pooled @ tensors["head.weight"].T + tensors["head.bias"]
    np.testing.assert_allclose(classifier(x).asnumpy(), expected, rtol=0, atol=LOGITS)


def test_images_too_small_for_stage_4_are_refused():
    network = mindcv_models.create_model("litv2_s")
    with pytest.raises(ValueError, match="at least 29 x 29"):
        network(ops.ones((1, 3, 28, 64)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True, "out_indices": [4]}, "choose from 0, 1, 2 and 3"),
        ({"features_only": True, "dense": "pose"}, "detection"),
        ({"alpha": -1}, "number from 0 to 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        mindcv_models.create_model("litv2_s", **options)


def test_parameter_groups():
    """Section 12: norms and biases are not decayed; the weights of the offsets alone learn slower."""
    network = mindcv_models.create_model("litv2_s", num_classes=10)
    exempt = set(network.no_weight_decay())
    official = torch_names(network)
    for parameter in network.trainable_params():
        assert (parameter.name in exempt) == (parameter.ndim == 1), parameter.name
        assert parameter.name in exempt or not official[parameter.name].endswith(".bias")
    scaled = [
        (p.name, f)
        for p in network.trainable_params()
        for pattern, f in network.lr_scale().items()
        if fnmatch.fnmatch(p.name, pattern)
    ]
    assert scaled == [(f"layers.{stage}.downsample.dconv.conv_offset.weight", 0.01) for stage in range(3)]


def test_initial_values():
    """Section 7."""
    network = mindcv_models.create_model("litv2_s", num_classes=10)
    values = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    dtm, block = "layers.1.downsample.dconv", "layers.2.blocks.0"
    assert not values[f"{dtm}.conv_offset.weight"].any() and not values[f"{dtm}.conv_offset.bias"].any()
    bound = 1 / np.sqrt(4 * 192)
    for name in (f"{dtm}.weight", f"{dtm}.bias"):
        assert 0.9 * bound < np.abs(values[name]).max() <= bound
    assert 0.9 / np.sqrt(48) < np.abs(values["patch_embed.proj.weight"]).max() <= 1 / np.sqrt(48)
    for name in (f"{block}.mlp.fc1", f"{block}.attn.l_kv", f"{block}.attn.h_qkv"):
        np.testing.assert_allclose(values[f"{name}.weight"].std(), 0.02, rtol=0.05)
        assert not values[f"{name}.bias"].any()
    np.testing.assert_allclose(values[f"{block}.mlp.dwconv.dwconv.weight"].std(), np.sqrt(2 / 9), rtol=0.05)
    assert not values[f"{block}.mlp.dwconv.dwconv.bias"].any()


def test_every_official_checkpoint_has_a_place():
    for case in [parity.case(FAMILY, name) for name in ("litv2_s_alpha_0", "litv2_s_alpha_1", "seg_s_ws2_256x192")]:
        shapes = parity.manifest(FAMILY)[case["variant"]]
        counters = sum(name.endswith("num_batches_tracked") for name in shapes)
        network = create("litv2_s", alpha=case["kwargs"]["alpha"]) if case["num_classes"] else build(case)
        assert len(torch_names(network)) == len(shapes) - counters, case["id"]
    assert set(mindcv_models.list_models("litv2*")) == set(VARIANTS)


@pytest.mark.parametrize("case", params("train5"))
def test_five_training_steps_equal_the_official_ones(case):
    """Eagerly the first of them."""
    reference = parity.reference(FAMILY, case)
    chaotic = case["lr"] > 1e-3  # of that run only the beginning is comparable
    steps = 1 if ms.get_context("mode") == ms.PYNATIVE_MODE else 2 if chaotic else case["steps"]
    network = build(case)
    names = torch_names(network)
    weights = list(network.trainable_params())

    def buffers():
        norms = {names[p.name]: np.linalg.norm(p.asnumpy().astype(np.float64)) for p in network.get_parameters()}
        return [norms[str(name)] for name in reference["bn_names"]]

    step = parity.GradientStep(network).set_train()
    count = case["image_shape"][0]
    x, y = parity.inputs(case), ms.Tensor(parity.labels(count, case["num_classes"], case["salt"]).astype(np.int32))
    losses = []
    for index in range(steps):
        loss, gradients = step(x, y)
        losses.append(float(loss))
        if index == 0:
            measured = {names[w.name]: np.linalg.norm(g.asnumpy()) for w, g in zip(weights, gradients)}
            np.testing.assert_allclose(buffers(), reference["bn_norms_step1_float64"], rtol=1e-6)
        for weight, gradient in zip(weights, gradients):
            weight.set_data(weight - case["lr"] * gradient)
    expected = reference["losses_float64"][: len(losses)]
    np.testing.assert_allclose(losses, expected, rtol=1e-3 if chaotic else 1e-5)
    assert set(measured) == {str(name) for name in reference["grad_names"]}
    for name, norm in zip(reference["grad_names"], reference["grad_norms_float64"]):
        if name.endswith("dconv.bias"):  # batch normalisation follows: zero but for rounding
            assert measured[name] < 1e-4, name
        else:
            np.testing.assert_allclose(measured[name], norm, rtol=1e-3, err_msg=name)
    if steps == case["steps"]:
        np.testing.assert_allclose(buffers(), reference["bn_norms_float64"], rtol=1e-5)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_ascend.yaml")), ids=lambda path: path.stem)
def test_recipes(path):
    """Section 12, at 1024 images a step."""
    options = parse(TrainOptions, "", ["--config", str(path)])
    fine_tuning = options.model == "litv2_b_384"
    assert options.image_resize == (VARIANTS[options.model].image_size,)
    assert (options.lr, options.min_lr) == ((4e-5, 4e-7) if fine_tuning else (1e-3, 1e-5))
    assert options.weight_decay == (1e-8 if fine_tuning else 0.05)
    assert (options.epoch_size, options.warmup_epochs) == ((30, 5) if fine_tuning else (300, 20))
    assert not options.warmup_prefix and options.decay_epochs == options.epoch_size
    assert options.drop_path_rate == {"litv2_s": 0.2, "litv2_m": 0.3}.get(options.model, 0.5)
    assert options.crop_pct == VARIANTS[options.model].crop_pct

"""FasterViT against the official PyTorch release: eagerly, one case compiled; the exhaustive run compiles all."""

import json
from functools import lru_cache

import mindspore as ms
import numpy as np
import pytest
from mindcv.utils.amp import auto_mixed_precision
from mindspore import nn

import mindcv_models
from mindcv_models.checkpoint.names import is_counter, is_derived, torch_names
from mindcv_models.checkpoint.torch_weights import load_torch_state_dict
from mindcv_models.errors import InputError
from mindcv_models.models.fastervit import VARIANTS
from tests.helpers import parity
from tests.helpers.networks import create

pytestmark = [pytest.mark.usefixtures("both_modes"), pytest.mark.process]

FAMILY = "fastervit"
EXTRA_CASES = json.loads((parity.DATA / FAMILY / "extra_cases.json").read_text())
EVAL_CASES = [case for case in parity.cases(FAMILY) if case["mode"] == "eval"]
PROBES = [case for case in EXTRA_CASES if case["id"].startswith("probe")]
TOLERANCE = 2e-5
# Run always: every kind of geometry, option and road; the others behind the slow marker.
FAST = ("0_224", "0_any_res_224x288_prop", "0_any_res_300x260_w12", "0_224_ct1_res448", "0_224_hat_none",
        "probe_0_any_res_224x288")  # fmt: skip

# Section 9 of the specification: learnable parameters.
PARAMETERS = {
    "faster_vit_0_224": 31_404_840,
    "faster_vit_1_224": 53_366_696,
    "faster_vit_2_224": 75_923_816,
    "faster_vit_3_224": 159_547_944,
    "faster_vit_4_224": 365_555_712,
    "faster_vit_5_224": 957_520_552,
    "faster_vit_6_224": 1_360_328_872,
    "faster_vit_4_21k_224": 271_944_224,
    "faster_vit_4_21k_384": 271_944_224,
    "faster_vit_4_21k_512": 271_944_224,
    "faster_vit_4_21k_768": 271_944_224,
}
ANY_RES = {"resolution": [576, 960], "window_size": [7, 7, 12, 6], "ct_size": 2}
ANY_RES_PARAMETERS = [30_609_192, 52_043_688, 74_338_664, 156_383_784, 360_720_384, 949_637_800, 1_349_818_536]


def params(cases):
    """Test parameters, most of them marked slow."""
    return [pytest.param(case, id=case["id"], marks=[pytest.mark.slow] * (case["id"] not in FAST)) for case in cases]


def weights_for(network, salt="parity"):
    """The reference weights by the official names, the second name of the shared convolution included."""
    tensors = {}
    parameters = network.parameters_dict()
    for name, official in torch_names(network).items():
        shape = parameters[name].shape
        tensors[official] = parity.parameter(official, shape, salt)
        if ".global_tokenizer.pos_embed." in official:
            second = official.replace(".pos_embed.", ".to_global_feature.pos.")
            tensors[second] = parity.parameter(second, shape, salt)
    return tensors


def fill(network, salt="parity"):
    if sum(parameter.size for parameter in network.get_parameters()) < 5e8:
        load_torch_state_dict(network, weights_for(network, salt))
        return network.set_train(False)
    parameters = network.parameters_dict()
    for name, official in torch_names(network).items():  # one at a time: the whole state dict would not fit beside it
        official = official.replace(".global_tokenizer.pos_embed.", ".global_tokenizer.to_global_feature.pos.")
        parameter = parameters[name]
        parameter.set_data(ms.Tensor(parity.parameter(official, parameter.shape, salt)))
    return network.set_train(False)


def build(case):
    return fill(create(case["variant"], **case["kwargs"]), case["salt"])


def image(height, width):
    return ms.Tensor(parity.images(1, height, width))


class Stages(nn.Cell):
    """The logits, and the maps that the reference statistics describe."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        network = self.network
        x = network.patch_embed(x)
        maps = (x,)
        for level in network.levels:
            x = level(x)
            maps += (x,)
        return network.forward_head(x), maps


def assert_close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", params(EVAL_CASES))
def test_logits_and_stages_equal_the_official_model(case):
    reference = parity.reference(FAMILY, case)
    network = build(case)
    assert sum(p.size for p in network.trainable_params()) == case["parameters"]
    logits, maps = Stages(network)(parity.inputs(case))
    assert_close(logits, reference["logits"])
    assert_close(logits, reference.get("logits_float64", reference["logits"]))
    assert [m.shape for m in maps] == [tuple(shape) for shape in case["stage_shapes"]]
    for array, row in zip(maps, reference["stage_stats"]):
        np.testing.assert_allclose(
            parity.statistics(array.asnumpy()), row, rtol=0, atol=TOLERANCE * np.abs(row[2:]).max()
        )


def test_compiled_logits_and_stages_equal_the_official_model():
    ms.set_context(mode=ms.GRAPH_MODE)
    test_logits_and_stages_equal_the_official_model(parity.case(FAMILY, "0_224"))


class Probe(nn.Cell):
    """What leaves the carrier initialiser, and the windows and carriers that leave each block of the third level."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        x = self.network.patch_embed(x)
        x = self.network.levels[1](self.network.levels[0](x))
        level = self.network.levels[2]
        x, carriers, rows, columns = level.partition(x)
        outputs = (carriers,)
        for block in level.blocks:
            x, carriers = block(x, carriers, rows, columns)
            outputs += (x, carriers)
        return outputs


@pytest.mark.parametrize("case", params(PROBES))
def test_every_hierarchical_block_equals_the_official_one(case):
    reference = parity.reference(FAMILY, case)
    rows = [
        row for name, row in zip(reference["probe_names"], reference["probe_stats"])
        if str(name).startswith(("levels.2.global_tokenizer", "levels.2.blocks"))
    ]  # fmt: skip
    outputs = Probe(build(case))(parity.inputs(case))
    assert len(outputs) == len(rows) >= 13
    for output, row in zip(outputs, rows):
        np.testing.assert_allclose(
            parity.statistics(output.asnumpy()), row, rtol=0, atol=TOLERANCE * np.abs(row[2:]).max()
        )


def official_weights(variant, salt="parity"):
    """The whole state dict of an official variant, entries without weights included."""
    return parity.state_dict(parity.manifest(FAMILY)[variant], salt)


def train_reference():
    return next(case for case in parity.cases(FAMILY) if case["mode"] == "train")


def test_five_training_steps_equal_the_official_ones():
    """Eagerly the first of them."""
    case = train_reference()
    steps = case["steps"] if ms.get_context("mode") == ms.GRAPH_MODE else 1
    reference = parity.reference(FAMILY, case)
    network = build(case)
    names = torch_names(network)
    weights = list(network.trainable_params())

    step = parity.GradientStep(network).set_train()
    x, y = parity.inputs(case), ms.Tensor(reference["labels"].astype(np.int32))
    losses, first_norms = [], None
    for _ in range(steps):
        loss, gradients = step(x, y)
        losses.append(float(loss))
        if first_norms is None:
            first_norms = {names[w.name]: np.linalg.norm(g.asnumpy()) for w, g in zip(weights, gradients)}
        for weight, gradient in zip(weights, gradients):
            weight.set_data(weight - 0.01 * gradient)
    np.testing.assert_allclose(losses, reference["losses_float64"][:steps], rtol=0, atol=2e-6)
    assert set(first_norms) == {str(name) for name in reference["grad_names"]}
    for name, norm in zip(reference["grad_names"], reference["grad_norms_float64"]):
        np.testing.assert_allclose(first_norms[name], norm, rtol=1e-4, atol=1e-5, err_msg=name)
    if steps < case["steps"]:
        return
    norms = {names[p.name]: np.linalg.norm(p.asnumpy().astype(np.float64)) for p in network.get_parameters()}
    for name, norm in zip(reference["grad_names"], reference["param_norms_after_float64"]):
        np.testing.assert_allclose(norms[name], norm, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, mean, variance in zip(
        reference["bn_names"], reference["bn_running_mean_norms_float64"], reference["bn_running_var_norms_float64"]
    ):
        np.testing.assert_allclose(norms[f"{name}.running_mean"], mean, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(norms[f"{name}.running_var"], variance, rtol=1e-5, err_msg=name)
    assert_close(network.set_train(False)(x), reference["eval_logits_after_float64"])


def test_pynative_equals_the_official_model():
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=False)
    case = parity.case(FAMILY, "0_any_res_112x224")
    assert_close(build(case)(parity.inputs(case)), parity.reference(FAMILY, case)["logits"])


@lru_cache(maxsize=1)
def any_size():
    """One network with the weights of ``faster_vit_0_224``, for all tests that only change its input."""
    network = create("faster_vit_0_any_res", resolution=224)
    load_torch_state_dict(network, official_weights("faster_vit_0_224"))
    return network.set_train(False)


@pytest.mark.parametrize("name", ["0_any_res_224x288", "0_any_res_300x260"])
def test_one_network_equals_the_official_one_built_for_each_size(name):
    case = parity.case(FAMILY, name)
    assert_close(any_size()(parity.inputs(case)), parity.reference(FAMILY, case)["logits"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 256), (384, 384), (320, 448), (576, 960), (225, 224), (231, 317), (37, 500)])
def test_one_network_takes_any_size(size):
    logits = any_size()(image(*size)).asnumpy()
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()


def test_a_size_without_official_result_depends_on_the_image_alone():
    """225x224 crashes officially; here it is 15x14 tokens in 3x2 windows, as a network built for it would have it."""
    network = create("faster_vit_0_any_res", resolution=[241, 224])
    load_torch_state_dict(network, official_weights("faster_vit_0_224"))
    x = image(225, 224)
    assert_close(any_size()(x), network.set_train(False)(x).asnumpy(), tolerance=0)


def test_fused_logits_equal_the_official_deployed_ones():
    case = parity.case(FAMILY, "0_224_deploy")
    network = build(case)
    fused = mindcv_models.reparameterize(network)
    logits = fused(parity.inputs(case))
    reference = parity.reference(FAMILY, case)
    assert_close(logits, reference["logits"])
    assert_close(logits, reference["logits_float64"])
    # Either form's rounding errors are 5e-6 to 7e-6 with logits of up to 10, and so is what the forms differ by.
    assert_close(logits, network(parity.inputs(case)).asnumpy(), tolerance=1e-6 * np.abs(reference["logits"]).max())
    assert sum(p.size for p in fused.trainable_params()) == case["parameters"]
    official = parity.manifest(FAMILY)["faster_vit_0_224"]
    tables = {n: list(p.shape) for n, p in fused.parameters_dict().items() if n.endswith("relative_bias")}
    assert tables == {name: shape for name, shape in official.items() if name.endswith("relative_bias")}
    assert len(tables) == 34


def test_the_official_tables_of_positions():
    reference = parity.reference(FAMILY, PROBES[0])
    fused = mindcv_models.reparameterize(build(PROBES[0])).parameters_dict()
    tables = [name for name in reference.files if name.endswith("relative_bias")]
    assert len(tables) == 4
    for name in tables:
        assert_close(fused[name], reference[name])


@pytest.mark.slow
def test_a_fused_network_computes_the_tables_of_another_size():
    case = parity.case(FAMILY, "0_any_res_300x260")
    assert_close(
        mindcv_models.reparameterize(any_size())(parity.inputs(case)), parity.reference(FAMILY, case)["logits"]
    )


def test_deployed_tables_are_used_as_they_are():
    case = next(case for case in EXTRA_CASES if case["id"] == "0_224_loaded_deploy")
    fused = mindcv_models.reparameterize(any_size())
    for name, parameter in fused.parameters_dict().items():
        if name.endswith("relative_bias"):
            parameter.set_data(ms.Tensor(parity.parameter(name, parameter.shape)))
    assert_close(fused(parity.inputs(case)), parity.reference(FAMILY, case)["logits"])


@pytest.mark.slow
def test_tables_from_other_coordinates():
    """The official release would use coordinates from a checkpoint; here they enter by way of the stored tables."""
    case = next(case for case in EXTRA_CASES if case["id"] == "0_224_loaded_tables")
    fused = mindcv_models.reparameterize(any_size())
    for name, cell in fused.cells_and_names():
        if name.endswith("pos_emb_funct"):
            span = round(len(cell.coordinates(cell.length)) ** 0.5)
            shape = (1, span, span, 2)
            coordinates = ms.Tensor(parity.parameter(f"{name}.relative_coords_table", shape).reshape(-1, 2))
            table = cell.arrange(cell.cpb_mlp(coordinates), cell.length)
            cell.relative_bias.set_data(ms.Tensor(table.asnumpy()))
    assert_close(fused(parity.inputs(case)), parity.reference(FAMILY, case)["logits"])


def test_features_are_the_levels_before_they_are_halved():
    case = parity.case(FAMILY, "0_224")
    network = create("faster_vit_0_224", features_only=True, out_indices=[0, 3])
    tensors = {n: v for n, v in official_weights("faster_vit_0_224").items() if not n.startswith(("norm.", "head."))}
    load_torch_state_dict(network, tensors)
    first, last = network.set_train(False)(parity.inputs(case))
    assert network.out_channels == [64, 512]
    assert network.out_strides == [4, 32]
    assert first.shape == (2, 64, 56, 56)
    row = parity.reference(FAMILY, case)["stage_stats"][4]
    np.testing.assert_allclose(parity.statistics(last.asnumpy()), row, rtol=0, atol=TOLERANCE * np.abs(row[2:]).max())
    halved = network.levels[0].downsample(first)
    row = parity.reference(FAMILY, case)["stage_stats"][1]
    np.testing.assert_allclose(parity.statistics(halved.asnumpy()), row, rtol=0, atol=TOLERANCE * np.abs(row[2:]).max())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    network = create(name)
    assert sum(p.size for p in network.trainable_params()) == PARAMETERS[name]


@pytest.mark.parametrize(("number", "count"), list(enumerate(ANY_RES_PARAMETERS)))
def test_any_resolution_parameter_counts(number, count):
    network = create(f"faster_vit_{number}_any_res", **ANY_RES)
    assert sum(p.size for p in network.trainable_params()) == count
    square = create(f"faster_vit_{number}_any_res", resolution=224)
    assert sum(p.size for p in square.trainable_params()) == PARAMETERS[f"faster_vit_{number}_224"]


@pytest.mark.parametrize("name", parity.manifest(FAMILY))
def test_names_and_shapes_equal_the_official_ones(name):
    network = create(name, **(ANY_RES if "any_res" in name else {}))
    parameters = network.parameters_dict()
    ours = {official: list(parameters[n].shape) for n, official in torch_names(network).items()}
    official = parity.manifest(FAMILY)[name]
    assert ours == {
        n: shape for n, shape in official.items()
        if not is_counter(n) and not is_derived(n) and "to_global_feature.pos." not in n
    }  # fmt: skip


def test_the_readme_example():
    network = create("faster_vit_1_any_res", dim=128, **ANY_RES)
    assert network.head.in_channels == 1024
    assert network.levels[2].window == 12


def test_every_variant_is_registered():
    assert set(mindcv_models.list_models("faster_vit_*")) == set(VARIANTS)
    assert len(VARIANTS) == 22


def test_weights_trained_at_224_load_into_any_resolution():
    network = create("faster_vit_0_any_res", **ANY_RES)
    tensors = official_weights("faster_vit_0_224")
    report = load_torch_state_dict(network, tensors)
    assert report.loaded == len(list(network.get_parameters()))
    assert set(report.recomputed) == {name for name in tensors if is_derived(name)}
    assert set(report.unused) == {name for name in tensors if ".hat_pos_embed.cpb_mlp." in name}
    assert "parameters loaded" in str(report)
    case = parity.case(FAMILY, "0_any_res_112x112")
    network = create("faster_vit_0_any_res", **case["kwargs"])
    report = load_torch_state_dict(network, tensors)
    assert any(".hat_attn." in name for name in report.unused)
    assert_close(network.set_train(False)(parity.inputs(case)), parity.reference(FAMILY, case)["logits"])


def test_either_name_of_the_shared_convolution_suffices():
    network = create("faster_vit_0_224")
    tensors = official_weights("faster_vit_0_224")
    second = {name for name in tensors if ".to_global_feature.pos." in name}
    assert len(second) == 2
    load_torch_state_dict(network, {name: value for name, value in tensors.items() if name not in second})
    weight = network.levels[2].global_tokenizer.pos_embed.weight
    np.testing.assert_array_equal(weight.asnumpy(), tensors["levels.2.global_tokenizer.pos_embed.weight"])


@pytest.mark.parametrize("source", ["faster_vit_1_224", "faster_vit_4_21k_224"])
def test_weights_of_another_variant_are_refused(source):
    network = create("faster_vit_4_21k_224" if source == "faster_vit_1_224" else "faster_vit_4_224")
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in parity.manifest(FAMILY)[source].items()}
    with pytest.raises(InputError, match="variant"):
        load_torch_state_dict(network, tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": [224, 224, 3]}, r"resolution is \[224, 224, 3\].*\[height, width\]"),
        ({"resolution": 8}, "at least 16"),
        ({"resolution": "224"}, "whole pixels"),
        ({"window_size": [7, 7]}, "list of four"),
        ({"window_size": [7, 7, 1, 7]}, "at least 2"),
        ({"window_size": [7, 7, 3.5, 7]}, "whole side"),
        ({"ct_size": 8}, "from 1 to 7"),
        ({"ct_size": 0}, "from 1 to 7"),
        ({"num_heads": [2, 4, 7, 16]}, "does not divide the 256 channels"),
        ({"features_only": True, "out_indices": [4]}, "choose from 0, 1, 2 and 3"),
        ({"windows": 7}, "windows"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create("faster_vit_0_any_res", **options)


def test_other_options():
    network = create("faster_vit_0_224", num_classes=0, in_channels=1, drop_path_rate=0.1, hat=[True] * 4)
    assert network(ms.Tensor(np.zeros((1, 1, 64, 32), np.float32))).shape == (1, 512)
    rates = [
        block.drop_path.keep_prob
        for level in network.levels
        for block in level.blocks
        if hasattr(block.drop_path, "keep_prob")
    ]
    np.testing.assert_allclose(rates, 1 - np.linspace(0, 0.1, 16)[1:])


@pytest.mark.parametrize("level", ["O1", pytest.param("O2", marks=pytest.mark.slow)])
def test_mixed_precision_computes_the_same(level):
    network = create("faster_vit_0_224", depths=[1, 1, 1, 1], num_classes=10)
    x = image(112, 224)
    logits = fill(network)(x).asnumpy()
    half = create("faster_vit_0_224", depths=[1, 1, 1, 1], num_classes=10)
    auto_mixed_precision(fill(half), level)
    np.testing.assert_allclose(half(x).asnumpy(), logits, rtol=0, atol=0.02 * np.abs(logits).max())

"""FastViT against the official PyTorch release: eagerly, two cases compiled; the exhaustive run compiles all."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

import mindcv_models
from mindcv_models.checkpoint.names import torch_names
from mindcv_models.checkpoint.torch_weights import load_torch_state_dict
from tests.helpers import parity
from tests.helpers.networks import create

pytestmark = [pytest.mark.usefixtures("both_modes"), pytest.mark.process]

FAMILY = "fastvit"
CASES = [case for case in parity.cases(FAMILY) if case["conditioning"] == "well"]
EVAL_CASES = [case for case in CASES if not case.get("fork_feat") and not case.get("train5")]
# Whose blocks and weights have their like in the other cases: left to the exhaustive run.
ALIKE = ("t12_damped", "s12_damped", "timm_sa12_damped")
LARGE = ("sa24", "sa36", "ma36")

# Section 5 of the specification: learnable parameters in training and inference form.
PARAMETERS = {
    "fastvit_t8": (4_026_232, 3_996_040),
    "fastvit_t12": (7_553_704, 7_508_840),
    "fastvit_s12": (9_473_576, 9_428_712),
    "fastvit_sa12": (11_580_968, 11_545_320),
    "fastvit_sa24": (21_554_216, 21_501_288),
    "fastvit_sa36": (31_527_464, 31_457_256),
    "fastvit_ma36": (44_068_004, 43_984_632),
}


def params(cases):
    """Test parameters; those of the large variants, and those that are like others, marked slow."""
    return [
        pytest.param(case, id=case["id"], marks=[pytest.mark.slow] * (case["variant"] in LARGE or case["id"] in ALIKE))
        for case in cases
    ]


def weights_of(case):
    form = {"timm": "train"}.get(case["form"], case["form"])
    if case.get("fork_feat"):
        form = "fork_feat"
    key = f"timm_{case['variant']}" if case["form"] == "timm" else case["variant"]
    shapes = dict(parity.manifest(FAMILY)[key][form])
    for name in shapes:
        if name.startswith("head."):
            shapes[name] = [case["num_classes"], *shapes[name][1:]]
    return parity.state_dict(shapes, case["salt"], case.get("layer_scale_factor", 1))


def build(case, **options):
    network = create(f"fastvit_{case['variant']}", num_classes=case["num_classes"], **options)
    if case["form"] == "fused":
        network = mindcv_models.reparameterize(network)
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
        for index, cell in enumerate(self.network.network):
            x = cell(x)
            if index in self.network.stage_ends:
                maps += (x,)
        x = self.network.conv_exp(x)
        return self.network.head(x.mean((2, 3))), (*maps, x)


def assert_maps_match(maps, reference, tolerance):
    """Statistics, shapes and samples of ``maps`` within ``tolerance`` of each map's largest value."""
    prefix = "stage" if "stage_stats" in reference else "feat"
    statistics, shapes, samples = (reference[f"{prefix}_{what}"] for what in ("stats", "shapes", "sample"))
    assert len(maps) == len(statistics)
    for array, row, shape, picked in zip(maps, statistics, shapes, samples):
        assert array.shape == tuple(shape)
        scale = np.abs(row[2:]).max()
        np.testing.assert_allclose(parity.statistics(array), row, rtol=0, atol=tolerance * scale)
        np.testing.assert_allclose(parity.sample(array), picked, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", params(EVAL_CASES))
def test_logits_stages_and_fused_logits_equal_the_official_model(case):
    reference = parity.reference(FAMILY, case)
    network = build(case)
    logits, maps = Stages(network)(parity.inputs(case))
    tolerance = case["tolerance"]["logits_abs"]
    np.testing.assert_allclose(logits.asnumpy(), reference["logits_f64"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(logits.asnumpy(), reference["logits"], rtol=0, atol=tolerance)
    assert_maps_match([m.asnumpy() for m in maps], reference, tolerance=2e-5)
    if case["form"] != "fused":
        fused = mindcv_models.reparameterize(network)(parity.inputs(case)).asnumpy()
        np.testing.assert_allclose(fused, logits.asnumpy(), rtol=0, atol=1e-5 * np.abs(logits.asnumpy()).max())


@pytest.mark.parametrize("name", ["t8", "sa12_damped"])
def test_compiled_logits_stages_and_fused_logits_equal_the_official_model(name):
    ms.set_context(mode=ms.GRAPH_MODE)
    test_logits_stages_and_fused_logits_equal_the_official_model(parity.case(FAMILY, name))


@pytest.mark.parametrize("case", params(c for c in parity.cases(FAMILY) if c["conditioning"] == "ill"))
def test_stages_before_attention_hold_where_the_logits_are_ill_conditioned(case):
    reference = parity.reference(FAMILY, case)
    _, maps = Stages(build(case))(parity.inputs(case))
    sound = {name: reference[name][:4] for name in ("stage_stats", "stage_shapes", "stage_sample")}
    assert_maps_match([m.asnumpy() for m in maps[:4]], sound, tolerance=2e-5)


@pytest.mark.parametrize("case", params(c for c in CASES if "fused_names" in parity.reference(FAMILY, c)))
def test_fused_kernels_equal_the_official_ones(case):
    reference = parity.reference(FAMILY, case)
    network = build(case)
    fused = mindcv_models.reparameterize(network)
    names = torch_names(fused)
    values = {names[p.name]: p.asnumpy().astype(np.float64) for p in fused.get_parameters()}
    official = [str(name) for name in reference["fused_names"]]
    if case["form"] == "timm":
        from mindcv_models.checkpoint.names import official_names

        official = list(official_names(official).values())
    assert len(official) > 10
    for name, l2, total in zip(official, reference["fused_l2"], reference["fused_sum"]):
        norm = np.linalg.norm(values[name])
        np.testing.assert_allclose(norm, l2, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(values[name].sum(), total, rtol=0, atol=1e-5 * max(l2, 1), err_msg=name)


@pytest.mark.parametrize("case", params(c for c in CASES if c.get("fork_feat")))
def test_dense_features_equal_the_official_ones(case):
    reference = parity.reference(FAMILY, case)
    network = mindcv_models.create_model(
        f"fastvit_{case['variant']}", features_only=True, fork_feat=True, official_taps=True
    )
    load_torch_state_dict(network, weights_of(case))
    maps = [m.asnumpy() for m in network.set_train(False)(parity.inputs(case))]
    tolerance = case["tolerance"]["feat_rel_to_max_abs"]
    assert_maps_match(maps, reference, tolerance)
    last = reference["feat_last"]
    np.testing.assert_allclose(maps[-1], last, rtol=0, atol=tolerance * np.abs(last).max())


def test_features_are_the_stages_of_the_classifier():
    case = parity.case(FAMILY, "sa12_rect_damped")
    classifier = build(case)
    _, maps = Stages(classifier)(parity.inputs(case))
    network = create("fastvit_sa12", features_only=True, out_indices=[1, 3])
    tensors = weights_of(case)
    trunk = {name: value for name, value in tensors.items() if name.startswith(("patch_embed.", "network."))}
    load_torch_state_dict(network, trunk)
    features = network.set_train(False)(parity.inputs(case))
    assert network.out_channels == [128, 512]
    assert network.out_strides == [8, 32]
    for feature, expected in zip(features, (maps[2], maps[4])):
        np.testing.assert_allclose(
            feature.asnumpy(), expected.asnumpy(), rtol=0, atol=1e-5 * np.abs(expected.asnumpy()).max()
        )


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    network = create(name)
    fused = mindcv_models.reparameterize(network)
    assert tuple(sum(p.size for p in n.trainable_params()) for n in (network, fused)) == PARAMETERS[name]


@pytest.mark.parametrize("case", params(c for c in CASES if c.get("train5")))
def test_five_training_steps_equal_the_official_ones(case):
    reference = parity.reference(FAMILY, case)
    network = build(case)
    names = torch_names(network)
    weights = list(network.trainable_params())
    tolerance = case["tolerance"]

    class Step(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.network = network
            self.gradient = ms.value_and_grad(self.loss, None, weights, has_aux=True)

        def loss(self, x, y):
            logits = self.network(x)
            return ops.cross_entropy(logits, y), logits

        def construct(self, x, y):
            return self.gradient(x, y)

    step = Step().set_train()
    x = parity.inputs(case)
    y = ms.Tensor(reference["labels"].astype(np.int32))
    losses, first_gradients = [], None
    for _ in range(case["steps"]):
        (loss, logits), gradients = step(x, y)
        losses.append(float(loss))
        if first_gradients is None:
            first_gradients = {names[w.name]: np.linalg.norm(g.asnumpy()) for w, g in zip(weights, gradients)}
            np.testing.assert_allclose(
                logits.asnumpy(), reference["step1_train_logits_f64"], rtol=0, atol=tolerance["eval_logits_after_abs"]
            )
        for weight, gradient in zip(weights, gradients):
            weight.set_data(weight - case["lr"] * gradient)
    np.testing.assert_allclose(losses, reference["losses_f64"], rtol=0, atol=tolerance["losses_abs"])
    assert set(first_gradients) == {str(name) for name in reference["grad_names"]}
    for name, expected in zip(reference["grad_names"], reference["grad_l2_step1_f64"]):
        if name in case["zero_grad_parameters"]:
            assert first_gradients[name] <= tolerance["grad_l2_abs"], name
        else:
            np.testing.assert_allclose(first_gradients[name], expected, rtol=tolerance["grad_l2_rel"], err_msg=name)
    norms = {names[p.name]: np.linalg.norm(p.asnumpy().astype(np.float64)) for p in network.get_parameters()}
    for name, expected in zip(reference["bn_names"], reference["bn_l2_after_f64"]):
        if "num_batches" not in name:
            np.testing.assert_allclose(norms[name], expected, rtol=tolerance["bn_l2_rel"], err_msg=name)
    for name, expected in zip(reference["param_names"], reference["param_l2_after_f64"]):
        np.testing.assert_allclose(norms[name], expected, rtol=tolerance["param_l2_rel"], err_msg=name)
    logits = network.set_train(False)(x).asnumpy()
    np.testing.assert_allclose(
        logits, reference["eval_logits_after_f64"], rtol=0, atol=tolerance["eval_logits_after_abs"]
    )

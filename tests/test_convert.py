"""From PyTorch's files to this project's and back: every variant by name, one of each family by its logits."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from mindcv.models.registry import is_model
from mindspore import nn

import mindcv_models
from mindcv_models.checkpoint import convert, load_weights
from mindcv_models.checkpoint.convert import Conversion, convert_checkpoint, export_to_torch
from mindcv_models.checkpoint.fit import fit_state_dict
from mindcv_models.checkpoint.listing import list_file
from mindcv_models.checkpoint.names import is_counter, is_derived, official_buffers, torch_names
from mindcv_models.checkpoint.state_dict import open_state_dict
from mindcv_models.errors import InputError, RunError
from mindcv_models.models import litv2
from tests.helpers import hostile, parity
from tests.helpers.launch import PATIENCE
from tests.helpers.networks import create
from tests.helpers.scripts import call

pytestmark = pytest.mark.usefixtures("eager")

ROOT = Path(__file__).parents[1]
FASTVIT, FASTERVIT, LITV2 = (parity.manifest(family) for family in ("fastvit", "fastervit", "litv2"))
ANY_RES = {"resolution": [576, 960], "window_size": [7, 7, 12, 6], "ct_size": 2}


def variants():
    """Model, its options, form, and every entry of its official state dict."""
    for key, forms in FASTVIT.items():
        model = f"fastvit_{key.replace('timm_', '')}"
        for form, shapes in forms.items():
            options = {"features_only": True, "fork_feat": True} if form == "fork_feat" else {}
            yield pytest.param(model, options, form == "fused", shapes, id=f"{key}-{form}")
    for key, shapes in FASTERVIT.items():
        yield pytest.param(key, ANY_RES if "any_res" in key else {}, False, shapes, id=key)
    for key, shapes in LITV2.items():
        part, _, model = key.rpartition("litv2_")
        model = f"litv2_{model.split('_fpn')[0]}"
        options = {}
        if part:
            dense = "segmentation" if part in ("seg_", "semantic_fpn_") else "detection"
            options = {"features_only": True, "dense": dense}
        if "alpha" in model:
            model, _, alpha = model.partition("_alpha_")
            options = {"alpha": float(alpha)}
        yield pytest.param(model, options, False, shapes, id=key)


def shapes_only(shapes):
    return {name: SimpleNamespace(shape=tuple(shape), dtype=np.dtype(np.float32)) for name, shape in shapes.items()}


@pytest.mark.process
@pytest.mark.parametrize(("model", "options", "fused", "shapes"), list(variants()))
def test_every_entry_of_every_variant_is_used_or_dropped_by_rule(model, options, fused, shapes):
    network = create(model, **options)
    if fused:
        network = mindcv_models.reparameterize(network)
    prefix = "backbone." if any(name.startswith("backbone.") for name in shapes) else ""
    own = [name for name in shapes if name.startswith(prefix)]
    fit = fit_state_dict(network, shapes_only(shapes))
    assert set(fit.report.other_parts) == set(shapes) - set(own)
    assert set(fit.sources) == {parameter.name for parameter in network.get_parameters()}
    assert len(set(fit.sources.values())) == fit.report.loaded
    assert fit.report.loaded + len(fit.report.dropped) == len(shapes)
    assert fit.report.unused == fit.report.classifier == fit.report.fresh == ()
    assert set(fit.report.counters) == {name for name in own if is_counter(name)}
    assert set(fit.report.recomputed) == {name for name in own if is_derived(name)}


# Systems over a LITv2 backbone that are here; their manifests are those of the official detectors and segmenters.
SYSTEMS = [
    (system, size)
    for system in ("retinanet", "mask_rcnn", "semantic_fpn")
    for size in "smb"
    if is_model(system)
]  # fmt: skip


def system_shapes(system, size):
    names = (name for name in LITV2 if name.startswith(f"{system}_litv2_{size}"))
    return LITV2[next(names)]


@pytest.mark.parametrize(("system", "size"), SYSTEMS)
def test_systems_over_a_backbone_have_the_official_names(system, size):
    shapes = system_shapes(system, size)
    conversion = Conversion(system, model_kwargs={"backbone": f"litv2_{size}"})
    classes = 150 if system == "semantic_fpn" else 80
    assert conversion.classes_in(shapes_only(shapes)) == classes
    network = conversion.empty_network(classes)
    fit = fit_state_dict(network, shapes_only(shapes))
    assert set(fit.report.counters) == set(fit.report.dropped) == {name for name in shapes if is_counter(name)}
    assert fit.report.loaded == len(shapes) - len(fit.report.counters) == len(list(network.get_parameters()))
    names = {*torch_names(network).values(), *official_buffers(network)}
    assert names == set(shapes)


@pytest.fixture
def shallow_litv2(monkeypatch):
    variant = replace(litv2.VARIANTS["litv2_s"], dim=32, depths=(1, 1, 1, 1))
    monkeypatch.setitem(litv2.VARIANTS, "litv2_s", variant)


@pytest.mark.parametrize("system", sorted({system for system, _ in SYSTEMS}))
def test_a_system_converts_and_comes_back(folder, shallow_litv2, system):
    """In the envelope that mmdetection writes, with another number of classes than the official one."""
    conversion = Conversion(system, model_kwargs={"backbone": "litv2_s"})
    network = conversion.empty_network(7)
    buffers = {name: value.shape for name, value in official_buffers(network).items()}
    shapes = {p.name: p.shape for p in network.get_parameters()}
    shapes = {official: shapes[name] for name, official in torch_names(network).items()}

    def envelope(weights):
        state = {0: {"exp_avg": torch.ones(3), "step": 4}}
        meta = {"CLASSES": ("a",) * 7, "epoch": 12, "mmdet_version": "2.11"}
        return {"meta": meta, "state_dict": weights, "optimizer": {"state": state, "param_groups": []}, "amp": {}}

    weights = save(folder / "in.pth", {**shapes, **buffers}, envelope)
    convert_checkpoint(str(folder / "in.pth"), folder / "net.ckpt", conversion)
    loaded = conversion.network(7)
    load_weights(loaded, str(folder / "net.ckpt"))
    for name, official in torch_names(loaded).items():
        np.testing.assert_array_equal(loaded.parameters_dict()[name].asnumpy(), weights[official])
    export_to_torch(str(folder / "net.ckpt"), folder / "back.safetensors", conversion)
    back = open_state_dict(str(folder / "back.safetensors")).tensors
    assert set(back) == set(weights)
    assert all(np.asarray(back[name]).tobytes() == value.tobytes() for name, value in weights.items())
    small = Conversion(system, num_classes=3, model_kwargs=conversion.model_kwargs)
    convert_checkpoint(str(folder / "in.pth"), folder / "three.ckpt", small)
    load_weights(small.network(3), str(folder / "three.ckpt"))


def test_two_entries_for_one_parameter_are_refused():
    both = {**FASTVIT["timm_t8"]["train"], "head.weight": [1000, 768]}
    network = create("fastvit_t8")
    with pytest.raises(InputError, match=r"head\.weight and head\.fc\.weight are names of one parameter"):
        fit_state_dict(network, shapes_only(both))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path


def save(path, shapes, wrap=lambda weights: weights, **options):
    """A checkpoint of stand-in weights, as PyTorch writes it, and the weights."""
    weights = parity.state_dict(shapes, **options)
    torch.save(wrap({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}), path)
    return weights


def verification(folder, family, case):
    count, _, height, width = case["image_shape"]
    logits = parity.reference(family, case)["logits"]
    np.savez(folder / "logits.npz", images=parity.images(count, height, width), logits=logits)
    return str(folder / "logits.npz")


FAMILIES = [
    pytest.param("fastvit", "t8", "fastvit_t8", FASTVIT["t8"]["train"], 1e-5, id="fastvit"),
    pytest.param("fastervit", "0_224", "faster_vit_0_224", FASTERVIT["faster_vit_0_224"], 1e-5, id="fastervit"),
    pytest.param("litv2", "litv2_s", "litv2_s", LITV2["litv2_s"], 1e-4, id="litv2"),
]


@pytest.mark.process
@pytest.mark.parametrize(("family", "case", "model", "shapes", "tolerance"), FAMILIES)
def test_a_checkpoint_converts_verifies_and_comes_back(folder, family, case, model, shapes, tolerance):
    weights = save(folder / "in.pth.tar", shapes, lambda w: {"state_dict": w, "epoch": 7})
    check = convert.verify_logits(verification(folder, family, parity.case(family, case)), tolerance)
    path = folder / "out" / "net.ckpt"
    convert_checkpoint(str(folder / "in.pth.tar"), path, Conversion(model), check)

    loaded = ms.load_checkpoint(str(path), crc_check=True)  # MindSpore's own reader reads what is written here
    names = torch_names(mindcv_models.create_model(model))
    assert list(loaded) == list(names)

    export_to_torch(str(path), folder / "out" / "back.safetensors", Conversion(model))
    back = open_state_dict(str(folder / "out" / "back.safetensors")).tensors
    assert {name: list(value.shape) for name, value in back.items()} == shapes
    for name, value in back.items():
        if is_derived(name) or is_counter(name):
            assert value.kind == ("int64" if name.endswith(("index", "tracked")) else "float32")
            continue
        # PyTorch fills the convolution of two names from both in turn, so the second one counts.
        source = name.replace("global_tokenizer.pos_embed.", "global_tokenizer.to_global_feature.pos.")
        assert np.asarray(value).tobytes() == weights[source].tobytes()
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["back.safetensors", "net.ckpt"]


@pytest.mark.process
def test_tables_of_the_geometry_come_back_with_the_weights(folder):
    shapes = FASTERVIT["faster_vit_0_224"]
    save(folder / "in.pth", shapes)
    convert_checkpoint(str(folder / "in.pth"), folder / "net.ckpt", Conversion("faster_vit_0_224"))
    export_to_torch(str(folder / "net.ckpt"), folder / "back.safetensors", Conversion("faster_vit_0_224"))
    back = open_state_dict(str(folder / "back.safetensors")).tensors
    network = mindcv_models.create_model("faster_vit_0_224")
    load_weights(network, str(folder / "net.ckpt"))
    stored = {p.name: p.asnumpy() for p in mindcv_models.reparameterize(network).get_parameters()}
    window = "levels.3.blocks.0.attn.pos_emb_funct."
    np.testing.assert_array_equal(np.asarray(back[f"{window}relative_bias"]), stored[f"{window}relative_bias"])
    index = np.asarray(back[f"{window}relative_position_index"])
    assert (index[0, 0], index[0, -1], index[-1, 0]) == (6 * 13 + 6, 0, 12 * 13 + 12)
    table = np.asarray(back[f"{window}relative_coords_table"])
    assert table[0, 0, 12].tolist() == pytest.approx([-np.log2(9) / 3, np.log2(9) / 3])


@pytest.fixture(scope="module")
def t8(tmp_path_factory):
    """A training checkpoint of FastViT-T8 with moving averages."""
    path = tmp_path_factory.mktemp("t8") / "t8.pth.tar"
    weights = parity.state_dict(FASTVIT["t8"]["train"])
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    averages = {name: value + 1 for name, value in tensors.items()}
    torch.save({"state_dict": tensors, "state_dict_ema": averages, "arch": "fastvit_t8"}, path)
    return str(path)


def weight(path, name="network.0.0.convffn.fc1.weight"):
    return ms.load_checkpoint(str(path))[name]


def test_averages_a_new_head_and_other_types(folder, t8):
    plain, averaged, half, small = (folder / f"{n}.ckpt" for n in ("plain", "averaged", "half", "small"))
    convert_checkpoint(t8, plain, Conversion("fastvit_t8"))
    convert_checkpoint(t8, averaged, Conversion("fastvit_t8", use_ema=True))
    np.testing.assert_array_equal(weight(averaged).asnumpy(), weight(plain).asnumpy() + 1)
    convert_checkpoint(t8, half, Conversion("fastvit_t8", dtype="float16"))
    assert weight(half).dtype == ms.float16
    np.testing.assert_array_equal(weight(half).asnumpy(), weight(plain).asnumpy().astype(np.float16))
    convert_checkpoint(t8, small, Conversion("fastvit_t8", num_classes=7))
    assert weight(small, "head.weight").shape == (7, 768)
    assert 0.01 < weight(small, "head.weight").asnumpy().std() < 0.03
    np.testing.assert_array_equal(weight(small).asnumpy(), weight(plain).asnumpy())
    network = mindcv_models.create_model("fastvit_t8", num_classes=7)
    load_weights(network, str(small))


def test_bfloat16_is_rounded_as_pytorch_rounds(folder, t8):
    path = folder / "bf16.safetensors"
    convert_checkpoint(t8, path, Conversion("fastvit_t8", dtype="bfloat16"))
    name = "network.0.0.convffn.fc1.weight"
    expected = torch.from_numpy(np.array(parity.parameter(name, (144, 48, 1, 1)))).bfloat16()
    tensor = open_state_dict(str(path)).tensors[name]
    assert tensor.kind == "bfloat16"
    convert_checkpoint(t8, folder / "bf16.ckpt", Conversion("fastvit_t8", dtype="bfloat16"))
    network = mindcv_models.create_model("fastvit_t8")
    load_weights(network, str(folder / "bf16.ckpt"))
    np.testing.assert_array_equal(network.parameters_dict()[name].asnumpy(), expected.float().numpy())
    np.testing.assert_array_equal(np.asarray(tensor), expected.float().numpy())


def test_values_that_float16_cannot_hold_are_refused(folder):
    weights = parity.state_dict(FASTVIT["t8"]["train"])
    weights["head.bias"] = weights["head.bias"] + 1e6
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}, folder / "in.pth")
    with pytest.raises(InputError, match=r"head.bias has values beyond the range of float16: use --dtype bfloat16"):
        convert_checkpoint(str(folder / "in.pth"), folder / "out" / "x.ckpt", Conversion("fastvit_t8", dtype="float16"))
    assert list((folder / "out").iterdir()) == []


def test_the_inference_form_from_either_form(folder, t8):
    fused, again, back = folder / "fused.safetensors", folder / "again.ckpt", folder / "back.safetensors"
    convert_checkpoint(t8, fused, Conversion("fastvit_t8", reparam=True))
    found = open_state_dict(str(fused)).tensors
    assert {name: list(value.shape) for name, value in found.items()} == {
        name: shape for name, shape in FASTVIT["t8"]["fused"].items() if not is_counter(name)
    }
    convert_checkpoint(str(fused), again, Conversion("fastvit_t8"))
    network = mindcv_models.reparameterize(mindcv_models.create_model("fastvit_t8"))
    load_weights(network, str(again))
    name = "network.0.0.token_mixer.reparam_conv.weight"
    np.testing.assert_array_equal(network.parameters_dict()[name].asnumpy(), np.asarray(found[name]))
    export_to_torch(str(again), back, Conversion("fastvit_t8", reparam=True))
    returned = open_state_dict(str(back)).tensors
    assert {name: list(value.shape) for name, value in returned.items()} == FASTVIT["t8"]["fused"]
    assert all(np.asarray(returned[name]).tobytes() == np.asarray(value).tobytes() for name, value in found.items())


def test_timms_names_on_the_way_out(folder, t8):
    convert_checkpoint(t8, folder / "timm.safetensors", Conversion("fastvit_t8", names="timm"))
    found = open_state_dict(str(folder / "timm.safetensors")).tensors
    timm = {name: shape for name, shape in FASTVIT["timm_t8"]["train"].items() if not is_counter(name)}
    assert {name: list(value.shape) for name, value in found.items()} == timm
    expected = parity.parameter("network.0.0.convffn.fc1.weight", (144, 48, 1, 1))
    np.testing.assert_array_equal(np.asarray(found["stages.0.blocks.0.mlp.fc1.weight"]), expected)
    convert_checkpoint(str(folder / "timm.safetensors"), folder / "net.ckpt", Conversion("fastvit_t8"))
    export_to_torch(str(folder / "net.ckpt"), folder / "back.safetensors", Conversion("fastvit_t8", names="timm"))
    back = open_state_dict(str(folder / "back.safetensors")).tensors
    assert {name: list(value.shape) for name, value in back.items()} == FASTVIT["timm_t8"]["train"]
    assert all(np.asarray(back[name]).tobytes() == np.asarray(value).tobytes() for name, value in found.items())


def test_a_listing_says_where_tensors_are_and_what_they_are(tmp_path):
    path = str(tmp_path / "a.pth")
    content = {"epoch": 3, "args": SimpleNamespace(lr=1), "net": {"weights": {"a.b": torch.ones(2, 3), "c": 5}}}
    torch.save({**content, "ema": {"_orig_mod.a": torch.ones(4).half()}, "optimizer": {"m": torch.ones(9)}}, path)
    assert list(list_file(path)) == [
        f"{path}: net.weights: 1 tensors, 6 numbers, 0.0 MB",
        "  a.b  (2, 3) float32",
        "  c    5",
        f"{path}: ema: 1 tensors, 4 numbers, 0.0 MB",
        "  _orig_mod.a  (4,) float16",
        "besides: epoch (3), args (types.SimpleNamespace), optimizer (dict)",
    ]
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor([1.0, 2.0])}], str(tmp_path / "own.ckpt"))
    own = str(tmp_path / "own.ckpt")
    assert list(list_file(own)) == [f"{own}: 1 tensors, 2 numbers, 0.0 MB", "  w  (2,) float32"]
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(InputError, match=r"a\.pth holds no tensors by name, but 'torch\.nn\.modules\.linear\.Linear'"):
        list(list_file(path))


@pytest.mark.process
def test_weights_of_224_fit_other_resolutions(folder):
    save(folder / "f0.pth", FASTERVIT["faster_vit_0_224"])
    conversion = Conversion("faster_vit_0_any_res", model_kwargs=ANY_RES)
    convert_checkpoint(str(folder / "f0.pth"), folder / "f0.ckpt", conversion)
    export_to_torch(str(folder / "f0.ckpt"), folder / "f0.safetensors", conversion)
    back = open_state_dict(str(folder / "f0.safetensors")).tensors
    assert {name: list(value.shape) for name, value in back.items()} == FASTERVIT["faster_vit_0_any_res"]
    network = mindcv_models.create_model("faster_vit_0_any_res", **ANY_RES)
    load_weights(network, str(folder / "f0.ckpt"))
    assert not any(".hat_pos_embed." in p.name for p in network.get_parameters())  # 3 x 5 windows are no square
    save(folder / "b.pth", LITV2["litv2_b"], lambda weights: {"model": weights})
    convert_checkpoint(str(folder / "b.pth"), folder / "b.safetensors", Conversion("litv2_b_384"))
    assert len(open_state_dict(str(folder / "b.safetensors")).tensors) == 456


def test_the_backbone_of_a_detector(folder):
    save(folder / "det.pth", LITV2["retinanet_litv2_s"], lambda weights: {"state_dict": weights, "meta": {}})
    options = {"features_only": True, "dense": "detection"}
    convert_checkpoint(str(folder / "det.pth"), folder / "det.ckpt", Conversion("litv2_s", model_kwargs=options))
    network = mindcv_models.create_model("litv2_s", **options)
    load_weights(network, str(folder / "det.ckpt"))
    expected = parity.parameter("backbone.norm3.weight", (768,))
    np.testing.assert_array_equal(network.parameters_dict()["norm3.gamma"].asnumpy(), expected)


def test_a_wrong_result_is_not_written(folder, t8, monkeypatch):
    np.savez(folder / "wrong.npz", images=np.zeros((1, 3, 32, 32), np.float32), logits=np.ones((1, 1000), np.float32))
    check = convert.verify_logits(str(folder / "wrong.npz"), 1e-4)
    with pytest.raises(RunError, match="verification failed: logits up to 1 differ by"):
        convert_checkpoint(t8, folder / "out" / "x.ckpt", Conversion("fastvit_t8"), check)

    def write_and_damage(write):
        def damaged(path, *arguments):
            checksums = write(path, *arguments)
            with open(path, "r+b") as file:
                file.seek(5_000_000)
                file.write(b"\x01\x02\x03")
            return checksums

        return damaged

    for format, message in (
        ("ckpt", r"cannot be read back \(.*its checksum does not"),
        ("safetensors", "differs from"),
    ):
        monkeypatch.setattr(convert, f"write_{format}", write_and_damage(getattr(convert, f"write_{format}")))
        with pytest.raises(RunError, match=message):
            convert_checkpoint(t8, folder / "out" / f"x.{format}", Conversion("fastvit_t8"))
    assert list((folder / "out").iterdir()) == []


class Pair(nn.Cell):
    """As a backbone, it returns more than one map."""

    def construct(self, x):
        return x, x


def test_what_cannot_be_verified_is_refused(folder, t8):
    np.savez(folder / "four.npz", images=np.zeros((1, 4, 32, 32), np.float32), logits=np.ones((1, 1000), np.float32))
    with pytest.raises(InputError, match=r"the model does not take the images \(1, 4, 32, 32\)"):
        convert.verify_logits(str(folder / "four.npz"), 1e-4)(mindcv_models.create_model("fastvit_t8"))
    np.savez(folder / "flat.npz", images=np.zeros((1, 32, 32), np.float32), logits=np.ones((1, 1000), np.float32))
    with pytest.raises(InputError, match=r"give \(B, 3, H, W\) and \(B, classes\)"):
        convert.verify_logits(str(folder / "flat.npz"), 1e-4)
    np.savez(folder / "good.npz", images=np.zeros((1, 3, 32, 32), np.float32), logits=np.ones((1, 1000), np.float32))
    with pytest.raises(InputError, match=r"a backbone gives none"):
        convert.verify_logits(str(folder / "good.npz"), 1e-4)(Pair())


def test_an_interrupted_run_leaves_the_old_file(folder, t8, monkeypatch):
    (folder / "out" / "x.ckpt").write_text("old")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "check_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(t8, folder / "out" / "x.ckpt", Conversion("fastvit_t8"))
    assert [p.name for p in (folder / "out").iterdir()] == ["x.ckpt"]
    assert (folder / "out" / "x.ckpt").read_text() == "old"


def test_a_network_starts_from_a_pytorch_file(t8, caplog):
    caplog.set_level("INFO")
    network = mindcv_models.create_model("fastvit_t8", num_classes=10, pretrained_torch=t8, use_ema=True)
    name = "network.0.0.convffn.fc1.weight"
    expected = parity.parameter(name, (144, 48, 1, 1)) + 1
    np.testing.assert_array_equal(network.parameters_dict()[name].asnumpy(), expected)
    assert network.head.weight.shape == (10, 768)
    assert "2 parameters keep their initial values: head.bias, head.weight" in caplog.text
    whole = mindcv_models.create_model("fastvit_t8", pretrained_torch=t8)
    np.testing.assert_array_equal(whole.head.bias.asnumpy(), parity.parameter("head.bias", (1000,)))


# The script.


def run_script(arguments, monkeypatch, capsys):
    return call("convert_torch_weights", [str(a) for a in arguments], monkeypatch, capsys)


def test_the_script_converts_and_says_what_it_did(folder, t8, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    path = folder / "out" / "t8.ckpt"
    arguments = ["--model", "fastvit_t8", "--torch_path", t8, "--output", path, "--num_classes", 10]
    status, _, error = run_script(arguments, monkeypatch, capsys)
    assert status == 0, error
    assert "462 entries, state_dict of the checkpoint" in caplog.text
    assert "390 parameters loaded; 70 batch counters left out: *.num_batches_tracked (70)" in caplog.text
    assert "2 weights of the classifier left out: head.bias, head.weight" in caplog.text
    assert weight(path, "head.weight").shape == (10, 768)
    back = ["--model", "fastvit_t8", "--to_torch", path, "--output", folder / "out" / "t8.safetensors"]
    assert run_script(back, monkeypatch, capsys)[0] == 0
    assert "392 weights under official names, 462 entries in all" in caplog.text


def test_the_script_lists_a_file(t8, monkeypatch, capsys):
    status, out, _ = run_script(["--list", t8], monkeypatch, capsys)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{t8}: state_dict: 462 tensors, ")
    assert "  head.bias" in {line[: len("  head.bias")] for line in lines}
    assert lines[463].startswith(f"{t8}: state_dict_ema: 462 tensors, ")
    assert lines[-1] == "besides: arch ('fastvit_t8')"


GOOD = ["--model", "fastvit_t8", "--torch_path", "t8.pth", "--output", "out.ckpt"]
WRONG = {
    "no model": (GOOD[2:], "model is missing: give --model"),
    "unknown model": (["--model", "fastvit_t9", *GOOD[2:]], "unknown model 'fastvit_t9': did you mean fastvit_t"),
    "other model": (["--model", "fastvit_t12", *GOOD[2:]], "t8.pth does not fit the model: it has no network.4.4."),
    "no output": (GOOD[:4], "output is missing"),
    "output ending": ([*GOOD[:4], "--output", "out.pth"], "give it the ending .ckpt or .safetensors"),
    "output folder": ([*GOOD[:4], "--output", "absent/out.ckpt"], "cannot write absent/out.ckpt"),
    "no source": ([*GOOD[:2], *GOOD[4:]], "give either --torch_path"),
    "two sources": ([*GOOD, "--to_torch", "x.ckpt"], "give either --torch_path"),
    "absent": ([*GOOD[:3], "absent.pth", *GOOD[4:]], "no checkpoint at absent.pth"),
    "hostile": ([*GOOD[:3], "hostile.pth", *GOOD[4:]], "it calls 'os.system'"),
    "damaged": ([*GOOD[:3], "damaged.pth", *GOOD[4:]], "damaged or truncated"),
    "own": ([*GOOD[:3], "own.ckpt", *GOOD[4:]], "own.ckpt is a .ckpt of MindSpore's already"),
    "classes": ([*GOOD, "--num_classes", "-3"], "num_classes is -3, but must be at least 0."),
    "tolerance": ([*GOOD, "--tolerance", "-1"], "tolerance is -1.0, but must be at least 0."),
    "dtype": ([*GOOD, "--dtype", "int8"], "dtype is 'int8', which is not known"),
    "no averages": ([*GOOD, "--use_ema", "True"], "has no moving averages"),
    "model option": ([*GOOD, "--resolution", "224"], "resolution"),
    "verify": ([*GOOD, "--verify", "hostile.pth"], "hostile.pth is no whole .npz file ("),
    "option": ([*GOOD, "--ema", "True"], "unknown option --ema"),
    "back to ckpt": (["--model", "fastvit_t8", "--to_torch", "t8.pth", "--output", "x.ckpt"], "writes safetensors"),
    "back from torch": (
        ["--model", "fastvit_t8", "--to_torch", "t8.pth", "--output", "x.safetensors"], "is no .ckpt file",
    ),
    "back from nothing": (
        ["--model", "fastvit_t8", "--to_torch", "no.ckpt", "--output", "x.safetensors"], "no checkpoint at no.ckpt",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("working")
    save(path / "t8.pth", FASTVIT["t8"]["train"])
    (path / "hostile.pth").write_bytes(hostile.FILES["call_for_a_weight"](str(path / "executed")))
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor([1.0])}], str(path / "own.ckpt"))
    (path / "damaged.pth").write_bytes(hostile.FILES["cut_late"](""))
    return path


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2_and_writes_nothing(working_folder, monkeypatch, capsys, case):
    arguments, message = WRONG[case]
    monkeypatch.chdir(working_folder)
    before = sorted(os.listdir())
    status, _, error = run_script(arguments, monkeypatch, capsys)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.process
def test_a_failed_verification_is_status_1(working_folder, monkeypatch, capsys):
    monkeypatch.chdir(working_folder)
    np.savez("wrong.npz", images=np.zeros((1, 3, 32, 32), np.float32), logits=np.ones((1, 1000), np.float32))
    status, _, error = run_script([*GOOD, "--verify", "wrong.npz"], monkeypatch, capsys)
    assert status == 1
    assert "verification failed" in error
    assert not os.path.exists("out.ckpt")


def in_another_process(program, arguments, folder):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.process
def test_without_pytorch_installed(working_folder):
    """The script, in an interpreter that cannot import PyTorch; conversion compiles nothing, so it costs little."""
    program = (
        "import sys; sys.modules['torch'] = None; from mindspore.common.api import _CellGraphExecutor\n"
        "_CellGraphExecutor.compile = None\n"
        "import convert_torch_weights as script; script.run(script.main)"
    )
    done = in_another_process(program, [*GOOD[:5], "alone.ckpt"], working_folder)
    assert done.returncode == 0, done.stderr[-2000:]
    (working_folder / "alone.ckpt").unlink()


@pytest.mark.process
def test_sigterm_leaves_nothing(working_folder, folder):
    """Ended by a signal when the file is written, but not yet in its place."""
    program = (
        "import os, signal; import mindcv_models.checkpoint.convert as convert\n"
        "convert.check_file = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\n"
        "import convert_torch_weights as script; script.run(script.main)"
    )
    done = in_another_process(program, [*GOOD[:5], str(folder / "out" / "x.ckpt")], working_folder)
    assert done.returncode == 130, done.stderr[-2000:]
    assert list((folder / "out").iterdir()) == []

"""Models with published weights by name, from stand-in files in the official envelopes on a server of this machine."""

import importlib
import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import urlsplit

import mindspore as ms
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

import benchmark
import mindcv_models
from mindcv_models.benchmark.subject import TimedModel
from mindcv_models.checkpoint import load_weights
from mindcv_models.checkpoint.fit import fit_state_dict
from mindcv_models.checkpoint.names import torch_names
from mindcv_models.classification import export
from mindcv_models.classification.infer import load_network
from mindcv_models.classification.options import InferOptions, TrainOptions
from mindcv_models.detection.coco_classes import COCO_CLASSES
from mindcv_models.detection.options import InferOptions as DetectionOptions
from mindcv_models.detection.validate import build
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError, RunError
from mindcv_models.models import registry
from mindcv_models.options import parse
from mindcv_models.pretrained import LICENCES, Source, Weights, choose_weights, download, table
from mindcv_models.segmentation.ade20k_classes import ADE20K_CLASSES
from mindcv_models.tasks import task_of
from mindcv_models.training import build_network
from tests.helpers import dense_tiny, parity, tiny, tiny_detector  # noqa: F401, they register networks
from tests.helpers.networks import create
from tests.helpers.scripts import call
from tests.helpers.server import serving
from tools import pretrained_weights

FASTVIT, FASTERVIT = parity.manifest("fastvit"), parity.manifest("fastervit")


# The table.


def test_the_table_has_every_published_file_once():
    names = mindcv_models.list_pretrained()
    assert len(names) == len(set(names)) == len(table()) + 11  # FasterViT's weights go into two models each
    addresses = [address for row in table() for address in row.addresses]
    assert len(addresses) == len(set(addresses)) == 79 + 7
    assert all(urlsplit(address).scheme == "https" for address in addresses)
    paths = [(row.name, row.file_name) for row in table()]
    assert len(paths) == len(set(paths))
    assert mindcv_models.list_pretrained("litv2_[mb]*") == ["litv2_m.in1k", "litv2_b.in1k", "litv2_b_384.in1k"]
    assert mindcv_models.list_pretrained("fastvit_sa12*") == [
        "fastvit_sa12.in1k", "fastvit_sa12.in1k_reparam", "fastvit_sa12.apple_in1k", "fastvit_sa12.dist_in1k",
        "fastvit_sa12.dist_in1k_reparam", "fastvit_sa12.apple_dist_in1k",
    ]  # fmt: skip


def test_every_classifier_has_weights():
    listed = {name.partition(".")[0] for name in mindcv_models.list_pretrained()}
    dense = {"retinanet", "mask_rcnn", "semantic_fpn"}
    assert set(mindcv_models.list_models()) - dense == listed - dense


@pytest.mark.parametrize(
    ("name", "published", "address"),
    [
        (
            "fastvit_sa12.dist_in1k", "81.9",
            "https://docs-assets.developer.apple.com/ml-research/models/fastvit/image_classification_distilled_models/"
            "fastvit_sa12.pth.tar",
        ),
        ("fastvit_ma36", "83.9",
         "https://docs-assets.developer.apple.com/ml-research/models/fastvit/image_classification_models/"
         "fastvit_ma36.pth.tar"),
        ("fastvit_t8.apple_dist_in1k", "77.2",
         "https://huggingface.co/timm/fastvit_t8.apple_dist_in1k/resolve/main/model.safetensors"),
        ("faster_vit_2_any_res", "84.2",
         "https://huggingface.co/ahatamiz/FasterViT/resolve/main/fastervit_2_224_1k.pth.tar"),
        ("faster_vit_4_21k_384.in21k_ft_in1k", "87.6",
         "https://huggingface.co/ahatamiz/FasterViT/resolve/main/fastervit_4_21k_384_w24.pth.tar"),
        ("litv2_s.alpha_0.2_in1k", "81.89", "https://github.com/ziplab/LITv2/releases/download/v1.1/alpha_0.2.pth"),
        ("mask_rcnn.litv2_m_ws_4_coco", "46.5/42.0",
         "https://github.com/ziplab/LITv2/releases/download/v1.0/mask_rcnn_litv2_m_fpn_1x_coco_ws_4.pth"),
        ("semantic_fpn.litv2_b_ade20k", "47.2",
         "https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_b_fpn_r50_512x512_80k_ade20k.pth"),
    ],
)  # fmt: skip
def test_names_stand_for_these_files(name, published, address):
    _, weights, _ = choose_weights(name)
    assert (weights.published, weights.addresses[0]) == (published, address)


def test_the_drive_is_the_second_address():
    _, weights, _ = choose_weights("faster_vit_6_224")
    assert weights.addresses[1] == "https://drive.google.com/uc?export=download&id=12jtavR2QxmMzcKwPzWe7kw-oy34IYi59"
    assert not weights.licence.commercial
    assert weights.file_name == "fastervit_6_224_1k.pth.tar"


def test_options_choose_the_weights_and_weights_the_options():
    assert choose_weights("litv2_s.alpha_0.2_in1k")[2] == {"alpha": 0.2}
    assert choose_weights("litv2_s", {"alpha": 0.5, "drop_path_rate": None})[1].tag == "alpha_0.5_in1k"
    assert choose_weights("litv2_s", {"alpha": 0})[1].tag == "alpha_0_in1k"
    assert choose_weights("litv2_s")[1].tag == "in1k"
    model, weights, options = choose_weights("retinanet", {"backbone": "litv2_m", "window_size": 4})
    assert (model, weights.tag) == ("retinanet", "litv2_m_ws_4_coco")
    assert options == {"backbone": "litv2_m", "window_size": 4}
    assert choose_weights("mask_rcnn.litv2_b_coco")[2] == {"backbone": "litv2_b", "window_size": 2}
    assert choose_weights("resnet50", {"x": 1}) == ("resnet50", None, {"x": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastvit_sa12.dist_in1", {}, r"fastvit_sa12 has no weights with the tag 'dist_in1': did you mean dist_in1k\?"),
        ("litv2_m.xyz", {}, r"no weights with the tag 'xyz': it has in1k\."),
        ("resnet50.in1k", {}, r"resnet50 has no weights with the tag 'in1k': it has no published weights\."),
        ("litv2_s", {"alpha": 0.3}, r"litv2_s.in1k was trained with alpha=0.9, not alpha=0.3"),
        ("litv2_s.alpha_1_in1k", {"alpha": 0.5}, r"litv2_s.alpha_1_in1k was trained with alpha=1, not alpha=0.5"),
        ("retinanet", {"backbone": "fastvit_t8"}, r"with backbone=litv2_s window_size=2, not backbone=fastvit_t8"),
    ],
)
def test_names_and_options_without_weights_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        choose_weights(name, options)


# Models. FastViT-T8's stand-in weights follow from their names, so that it shows which file was loaded.


def entries(key, form, salt):
    return parity.state_dict(FASTVIT[key][form], salt)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with FastViT-T8's files, and an options dict that leads there."""
    folder = tmp_path_factory.mktemp("site")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "PAUSE", 0)
        for tag, form in (("in1k", "train"), ("dist_in1k", "train"), ("dist_in1k_reparam", "fused")):
            tensors = {name: torch.from_numpy(value) for name, value in entries("t8", form, tag).items()}
            torch.save({"state_dict": tensors}, folder / "file")
            path = urlsplit(choose_weights(f"fastvit_t8.{tag}")[1].addresses[0]).path
            server.files[path] = (folder / "file").read_bytes()
        save_file(entries("timm_t8", "train", "timm"), folder / "file")
        path = urlsplit(choose_weights("fastvit_t8.apple_in1k")[1].addresses[0]).path
        server.files[path] = (folder / "file").read_bytes()
        cache = tmp_path_factory.mktemp("cache")
        yield SimpleNamespace(
            server=server, cache=cache,
            options={"pretrained": True, "pretrained_cache": str(cache), "pretrained_mirror": server.address},
        )  # fmt: skip


def assert_holds(network, salt, form="train", key="t8", but=()):
    tensors = entries(key, form, salt)
    names = torch_names(network)
    assert len(names) > 100
    for parameter in network.get_parameters():
        if not parameter.name.startswith(but):
            np.testing.assert_array_equal(parameter.asnumpy(), tensors[names[parameter.name]], parameter.name)


def test_the_preferred_weights_come_without_a_tag(site, caplog):
    caplog.set_level("INFO")
    network = mindcv_models.create_model("fastvit_t8", **site.options)
    assert_holds(network, "in1k")
    path = site.cache / "fastvit_t8.in1k" / "fastvit_t8.pth.tar"
    assert f"loaded fastvit_t8.in1k from {path}: {len(torch_names(network))} parameters loaded" in caplog.text
    assert "Apple's terms" in caplog.text
    asked = len(site.server.asked)
    mindcv_models.create_model("fastvit_t8", **site.options)
    assert len(site.server.asked) == asked


def test_a_tag_names_others(site):
    assert_holds(mindcv_models.create_model("fastvit_t8.dist_in1k", **site.options), "dist_in1k")
    fused = mindcv_models.create_model("fastvit_t8.dist_in1k_reparam", **site.options)
    assert_holds(fused, "dist_in1k_reparam", "fused")
    timm = mindcv_models.create_model("fastvit_t8.apple_in1k", **site.options)
    official = {name: value for name, value in torch_names(timm).items() if value.startswith("stem")}
    assert official == {}
    np.testing.assert_array_equal(timm.head.bias.asnumpy(), parity.parameter("head.fc.bias", (1000,), "timm"))


def test_a_tag_without_pretrained_gives_the_options_alone(site):
    network = mindcv_models.create_model("fastvit_t8.dist_in1k", num_classes=3)
    assert network.head.weight.shape == (3, 768)


@pytest.mark.parametrize("classes", [10, 0])
def test_another_number_of_classes_leaves_the_classifier_out(site, caplog, classes):
    caplog.set_level("INFO")
    network = mindcv_models.create_model("fastvit_t8", num_classes=classes, **site.options)
    assert_holds(network, "in1k", but="head.")
    assert "2 weights of the classifier left out: head.bias, head.weight" in caplog.text
    if classes:
        assert network.head.weight.shape == (10, 768)
        assert "2 parameters keep their initial values: head.bias, head.weight" in caplog.text
        assert np.abs(network.head.bias.asnumpy()).max() == 0


def test_a_backbone_takes_what_it_has_of_the_classifier(site, caplog):
    caplog.set_level("INFO")
    network = mindcv_models.create_model("fastvit_t8", features_only=True, **site.options)
    assert_holds(network, "in1k")
    assert "fastvit_t8.in1k" in caplog.text


def test_a_file_of_ones_own_takes_the_place_of_a_download(site, tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(entries("t8", "train", "own"), path)
    asked = len(site.server.asked)
    network = mindcv_models.create_model("fastvit_t8", pretrained_torch=str(path), **site.options)
    assert_holds(network, "own")
    assert len(site.server.asked) == asked


def test_weights_of_another_model_under_the_address_do_not_fit(site, monkeypatch):
    path = urlsplit(choose_weights("fastvit_t12")[1].addresses[0]).path
    t8 = urlsplit(choose_weights("fastvit_t8")[1].addresses[0]).path
    monkeypatch.setitem(site.server.files, path, site.server.files[t8])
    with pytest.raises(InputError, match=r"fastvit_t12.in1k/fastvit_t12.pth.tar does not fit the model"):
        mindcv_models.create_model("fastvit_t12", **site.options)


def test_weights_that_are_not_there_are_named(site):
    with pytest.raises(
        RunError, match=r"cannot download litv2_m.in1k from http://127.0.0.1:\d+/ziplab/.*404 Not Found"
    ):
        mindcv_models.create_model("litv2_m", **site.options)


@pytest.mark.parametrize("number", range(7))
def test_any_resolution_takes_the_weights_of_224(number):
    """Names and shapes; the tables of positions are computed, and those that a rectangle has no use for dropped."""
    shapes = {
        name: SimpleNamespace(shape=tuple(shape), dtype=np.dtype(np.float32))
        for name, shape in FASTERVIT[f"faster_vit_{number}_224"].items()
    }
    network = create(f"faster_vit_{number}_any_res")
    report = fit_state_dict(network, shapes).report
    assert report.fresh == report.classifier == ()
    assert report.loaded == len(list(network.get_parameters()))
    assert all("hat_pos_embed" in name for name in report.unused)


def test_mindcvs_own_weights_come_from_mindcv(monkeypatch):
    given = {}
    monkeypatch.setattr(
        "mindcv_models.models.registry.mindcv.create_model", lambda name, **o: given.update(o, name=name)
    )
    mindcv_models.create_model("resnet50", pretrained=True)
    assert given == {"name": "resnet50", "num_classes": 1000, "in_channels": 3, "pretrained": True}


# The scripts, with a network that compiles in a second and weights of two classes.


@pytest.fixture
def tiny_site(tmp_path, monkeypatch):
    """Options that lead to the weights ``tiny.two``, and these by their names in the network."""
    network = mindcv_models.create_model("tiny", num_classes=2)
    values = {p.name: np.abs(parity.parameter(p.name, p.shape, "tiny")) for p in network.get_parameters()}
    names = torch_names(network)
    save_file({names[name]: value for name, value in values.items()}, tmp_path / "file")
    row = Weights(("tiny",), "two", "top-1", "50.0", {}, LICENCES["apache"], ("https://weights.invalid/tiny.pth",))
    rows = (row, replace(row, tag="two_reparam"))
    monkeypatch.setattr(sys.modules["mindcv_models.pretrained.table"], "table", lambda: rows)
    with serving() as server:
        server.files["/tiny.pth"] = (tmp_path / "file").read_bytes()
        where = ["--pretrained_cache", str(tmp_path / "cache"), "--pretrained_mirror", server.address]
        words = ["--model", "tiny.two", "--pretrained", "True", *where]
        yield SimpleNamespace(server=server, words=words, values=values, file=str(tmp_path / "file"))


SMALL = ["--image_resize", "32", "--num_parallel_workers", "1", "--batch_size", "4"]


def test_infer_with_published_weights(tiny_site, images, monkeypatch, capsys):
    more = ["--images", str(images / "val"), "--format", "json", "--num_classes", "2", *SMALL]
    status, out, error = call("infer", [*tiny_site.words, *more], monkeypatch, capsys)
    assert status == 0, error
    own = ["--model", "tiny", "--ckpt_path", tiny_site.file]
    status, expected, error = call("infer", [*own, *more], monkeypatch, capsys)
    assert status == 0, error
    assert json.loads(out) == json.loads(expected)
    assert len(json.loads(out)) == 24
    assert len(tiny_site.server.asked) == 1


def test_validate_with_published_weights(tiny_site, images, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    more = ["--data_dir", str(images), *SMALL]
    status, _, error = call("validate", [*tiny_site.words, *more], monkeypatch, capsys)
    assert status == 0, error
    assert "loaded tiny.two from" in caplog.text


def test_validation_does_not_take_weights_of_other_classes(tiny_site):
    options = parse(InferOptions, "", [*tiny_site.words, "--images", "x"])
    with pytest.raises(InputError, match=r"classifier.weight is \(2, 8\) there, but must be \(3, 8\)"):
        load_network(options, 3)


def test_train_from_published_weights(tiny_site, images, tmp_path, monkeypatch, capsys):
    output = tmp_path / "run"
    more = ["--data_dir", str(images), "--ckpt_save_dir", str(output), "--epoch_size", "1", "--lr", "1e-9", "--min_lr",
            "0", "--warmup_epochs", "0", "--weight_decay", "0", *SMALL]  # fmt: skip
    status, _, error = call("train", [*tiny_site.words, *more], monkeypatch, capsys)
    assert status == 0, error
    saved = yaml.safe_load((output / "config.yaml").read_text())
    assert (saved["model"], saved["pretrained"], saved["pretrained_tag"]) == ("tiny", True, "two")
    last = mindcv_models.create_model("tiny", num_classes=2)
    load_weights(last, str(output / "tiny_last.ckpt"))
    np.testing.assert_allclose(last.classifier.weight.asnumpy(), tiny_site.values["classifier.weight"], atol=1e-6)


def test_training_on_other_classes_leaves_the_classifier_out(tiny_site, caplog):
    caplog.set_level("INFO")
    options = parse(TrainOptions, "", [*tiny_site.words, "--num_classes", "5"])
    network = build_network(options, ONE_DEVICE)
    assert network.classifier.weight.shape == (5, 8)
    np.testing.assert_array_equal(network.stem.weight.asnumpy(), tiny_site.values["stem.weight"])
    assert "2 weights of the classifier left out: classifier.bias, classifier.weight" in caplog.text
    assert "2 parameters keep their initial values: classifier.bias, classifier.weight" in caplog.text


def test_the_inference_form_is_not_trained(tiny_site):
    words = ["--model", "tiny.two_reparam", *tiny_site.words[2:], "--num_classes", "2"]
    with pytest.raises(InputError, match=r"tiny\.two_reparam is the inference form"):
        build_network(parse(TrainOptions, "", words), ONE_DEVICE)


def test_export_loads_published_weights_or_a_file(tiny_site, tmp_path):
    more = ["--num_classes", "2", "--output", str(tmp_path / "tiny.onnx")]
    own = ["--model", "tiny", "--pretrained_file", tiny_site.file]
    for words in (tiny_site.words, own):
        network = export.load_network(parse(export.ExportOptions, "", [*words, *more]))
        np.testing.assert_array_equal(network.classifier.weight.asnumpy(), tiny_site.values["classifier.weight"])
    assert len(tiny_site.server.asked) == 1


# Detectors and segmenters, which are built in their rooms.

DENSE = {
    "retinanet": ("tiny_features", ["--channels", "8", "--convs", "1", "--anchor_scale", "2"]),
    "mask_rcnn": ("tiny_pyramid", ["--channels", "8", "--convs", "1", "--anchor_scale", "2"]),
    "semantic_fpn": ("tiny_maps", ["--channels", "8", "--head_channels", "8"]),
}


@pytest.fixture
def dense_site(request, tmp_path, monkeypatch):
    """As ``tiny_site``, of a dense system over a tiny backbone, which the weights name."""
    model, classes = request.param, 150 if request.param == "semantic_fpn" else 80
    backbone, sizes = DENSE[model]
    row = Weights(
        (model,), "own", "AP", "1", {"backbone": backbone}, LICENCES["apache"], ("https://w.invalid/own.pth",)
    )
    monkeypatch.setattr(sys.modules["mindcv_models.pretrained.table"], "table", lambda: (row,))
    own = {"channels": 8, **({"head_channels": 8} if model == "semantic_fpn" else {"convs": 1, "anchor_scale": 2.0})}
    ms.set_seed(3)
    network = registry.create_model(model, num_classes=classes, backbone=backbone, **own)
    names = torch_names(network)
    with serving() as server:
        save_file({names[p.name]: p.asnumpy() for p in network.get_parameters()}, tmp_path / "file")
        server.files["/own.pth"] = (tmp_path / "file").read_bytes()
        where = ["--pretrained_cache", str(tmp_path / "cache"), "--pretrained_mirror", server.address]
        words = ["--model", f"{model}.own", "--pretrained", "True", *where, *sizes]
        yield SimpleNamespace(model=model, server=server, words=words, network=network, file=str(tmp_path / "file"))


def scenes_options(site, folder):
    """What validation asks for beside the network: two pictures, and annotations of all classes or label maps."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "a.png")
    if site.model == "semantic_fpn":
        for name in ("images/validation", "annotations/validation"):
            (folder / name).mkdir(parents=True)
        Image.open(folder / "a.png").save(folder / "images/validation/a.png")
        Image.new("L", (64, 64), 7).save(folder / "annotations/validation/a.png")
        return ["--data_dir", str(folder), "--num_classes", "150", "--num_parallel_workers", "1"]
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(COCO_CLASSES)]
    box = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [8, 8, 20, 30], "area": 600, "iscrowd": 0,
           "segmentation": [[8, 8, 28, 8, 28, 38]]}  # fmt: skip
    image = {"id": 1, "file_name": "a.png", "height": 64, "width": 64}
    (folder / "coco.json").write_text(json.dumps({"images": [image], "annotations": [box], "categories": categories}))
    return ["--val_annotations", str(folder / "coco.json"), "--image_dir", str(folder), "--img_scale", "64", "64"]


@pytest.mark.parametrize("dense_site", ["retinanet", "semantic_fpn"], indirect=True)
def test_dense_systems_with_published_weights(dense_site, tmp_path, monkeypatch, capsys, caplog):
    """validate.py and infer.py run with them and say what they say with the file; export.py takes them too."""
    caplog.set_level("INFO")
    site, data = dense_site, tmp_path / "data"
    data.mkdir()
    given = scenes_options(site, data)
    status, _, error = call("validate", [*site.words, "--mode", "1", *given], monkeypatch, capsys)
    assert status == 0, error
    assert f"loaded {site.model}.own from" in caplog.text and f"{site.model}.own: " in caplog.text
    own = ["--model", site.model, "--backbone", DENSE[site.model][0], "--pretrained_file", site.file, *site.words[8:]]
    more = ["--images", str(data / "a.png"), "--mode", "1", "--format", "json"]
    more += (
        []
        if site.model == "semantic_fpn"
        else ["--img_scale", "64", "64", "--score_threshold", "0.001", "--min_score", "0.001"]
    )
    answers = []
    for words in (site.words, own):
        status, out, error = call("infer", [*words, *more], monkeypatch, capsys)
        assert status == 0, error
        answers.append(json.loads(out))
    assert answers[0] == answers[1]
    assert site.server.asked[1:] == []
    names = {found["class"] for found in next(v for k, v in answers[0][0].items() if k != "image")}
    assert names and names <= {*COCO_CLASSES, *ADE20K_CLASSES}
    room = importlib.import_module(f"mindcv_models.{registry.task_of(site.model)}.export")
    options = parse(room.ExportOptions, "", [*site.words, "--output", str(tmp_path / "a.onnx")])
    assert options.wants_published and options.backbone == DENSE[site.model][0]


def test_names_of_the_published_classes():
    assert (len(COCO_CLASSES), COCO_CLASSES[0], COCO_CLASSES[11], COCO_CLASSES[-1]) == (
        80, "person", "stop sign", "toothbrush"
    )  # fmt: skip
    assert (len(set(ADE20K_CLASSES)), ADE20K_CLASSES[0], ADE20K_CLASSES[44], ADE20K_CLASSES[-1]) == (
        150, "wall", "chest of drawers", "flag"
    )  # fmt: skip


@pytest.mark.parametrize("dense_site", ["mask_rcnn"], indirect=True)
def test_mask_rcnn_is_built_with_published_weights(dense_site, tmp_path):
    options = parse(DetectionOptions, "", [*dense_site.words, "--images", "x"])
    for mine, its in zip(build(options, 80).get_parameters(), dense_site.network.get_parameters()):
        np.testing.assert_array_equal(mine.asnumpy(), its.asnumpy(), its.name)


@pytest.mark.parametrize("dense_site", ["retinanet"], indirect=True)
def test_published_weights_of_other_classes_are_refused(dense_site, tmp_path):
    options = parse(DetectionOptions, "", [*dense_site.words, "--images", "x"])
    with pytest.raises(InputError, match=r"does not fit the model|must be"):
        build(options, 3)


def test_benchmark_times_published_weights(tiny_site, tmp_path, monkeypatch):
    monkeypatch.setenv("MINDCV_MODELS_MIRROR", tiny_site.server.address)
    monkeypatch.setenv("MINDCV_MODELS_CACHE", str(tmp_path / "cache"))
    options = benchmark.BenchmarkOptions(models=("tiny",), pretrained=True, image_size=(32,))
    ((job,),) = benchmark.jobs_of(options)
    assert job.pretrained
    TimedModel(replace(job, batch_size=1, warmup=0, queued=1))
    assert len(tiny_site.server.asked) == 1


def test_options_name_weights(tiny_site):
    def parsed(*words):
        return parse(InferOptions, "", ["--images", "x", *words])

    options = parsed("--model", "tiny.two", "--pretrained", "True")
    assert (options.model, options.pretrained_tag, options.tagged_model) == ("tiny", "two", "tiny.two")
    assert options.wants_published
    options = parsed("--model", "tiny", "--pretrained_tag", "two", "--pretrained", "--pretrained_mirror", "http://m")
    assert (options.tagged_model, options.source) == ("tiny.two", Source(mirror="http://m"))
    assert not parsed("--model", "tiny.two", "--pretrained", "True", "--ckpt_path", "own.ckpt").wants_published
    with pytest.raises(InputError, match=r"ckpt_path is missing: .*or --pretrained True"):
        parsed("--model", "tiny.two")
    with pytest.raises(InputError, match="no weights with the tag 'three'"):
        parsed("--model", "tiny.three", "--pretrained", "True")


def test_a_tag_gives_the_model_its_options():
    words = ["--model", "litv2_s.alpha_0.2_in1k", "--pretrained", "True", "--images", "x"]
    options = parse(InferOptions, "", words)
    assert (options.model, options.model_kwargs) == ("litv2_s", {"alpha": 0.2})
    with pytest.raises(InputError, match=r"was trained with alpha=0.2, not alpha=1"):
        parse(InferOptions, "", [*words, "--model_kwargs", "alpha=1"])


def test_a_tag_does_not_change_the_task():
    assert task_of("fastvit_sa12.dist_in1k") is task_of("fastvit_sa12")


def test_the_guide_has_the_table():
    text = pretrained_weights.PAGE.read_text(encoding="utf-8")
    assert pretrained_weights.page(text) == text
    assert text.count("| `") == len(table())
    assert "Licence: NVIDIA Source Code License-NC and CC-BY-NC-SA-4.0, **not for commercial use**." in text


def test_the_tool_lists_and_downloads(site, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["pretrained_weights.py", *arguments])
        pretrained_weights.main()
        return capsys.readouterr().out.splitlines()

    assert call() == mindcv_models.list_pretrained()
    assert call("litv2_b_384.*", "litv2_m.in1k") == ["litv2_b_384.in1k", "litv2_m.in1k"]
    where = ["--pretrained_cache", str(site.cache), "--pretrained_mirror", site.server.address]
    assert call("fastvit_t8.in1k", "--download", *where) == [str(site.cache / "fastvit_t8.in1k" / "fastvit_t8.pth.tar")]
    with pytest.raises(InputError, match="no published weights are called 'resnet"):
        call("resnet*")

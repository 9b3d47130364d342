"""RetinaNet's losses and outputs by hand, and a detector through the scripts on a few scenes."""

import json

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import nn, ops
from PIL import Image
from safetensors.numpy import load_file

import convert_torch_weights
import export
import infer
import train
import validate
from mindcv_models.checkpoint import load_backbone, load_weights, save_checkpoint
from mindcv_models.detection.data import eval_transform
from mindcv_models.detection.losses import focal_loss, retinanet_losses
from mindcv_models.detection.objective import RetinaNetObjective
from mindcv_models.detection.predict import Limits
from mindcv_models.detection.validator import Detector
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.models.registry import create_model
from mindcv_models.options import parse
from mindcv_models.tasks import task_of
from tests.helpers import parity
from tests.helpers.scripts import rows
from tests.helpers.tiny_detector import (
    NETWORK,
    TWO_EPOCHS,
    call,
    finished_run,
    found_by_one,
    found_by_two_ranks,
    refused_in_one_line,
    resumed,
    scenes,
)

VIEWS = ["--ratio_range", "0.7", "1.4", "--photometric", "True"]
RUN = [*NETWORK, *TWO_EPOCHS, *VIEWS, "--lr", "0.02", "--ema", "True", "--ema_decay", "0.5", "--ema_ramp", "False"]


def formula(logits, labels):
    """Equation 5 of the paper, in float64: p is the probability of what is true."""
    loss = 0.0
    for row, label in zip(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)):
        for k, x in enumerate(row.astype(np.float64)) if label >= 0 else ():
            p = 1 / (1 + np.exp(-x))
            p, alpha = (p, 0.25) if k == label else (1 - p, 0.75)
            loss -= alpha * (1 - p) ** 2 * np.log(p)
    return loss


def test_focal_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6, 3)).astype(np.float32)
    labels = np.array([[0, 1, 2, 3, 3, -1], [-1, -1, 3, 3, 3, 3]], np.int32)
    value = float(focal_loss(ms.Tensor(logits), ms.Tensor(labels)))
    np.testing.assert_allclose(value, formula(logits, labels), rtol=1e-5)


def test_focal_loss_is_finite_far_out_and_so_is_its_gradient():
    logits = ms.Tensor(np.array([[[-90.0, 90.0, 0.0]]], np.float32))
    labels = ms.Tensor(np.array([[0]], np.int32))

    def loss_of(x):
        return focal_loss(x, labels)

    loss, gradient = ms.value_and_grad(loss_of)(logits)
    np.testing.assert_allclose(float(loss), 0.25 * 90 + 0.75 * 90 + 0.75 * 0.25 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy()[0, 0, :2], [-0.25, 0.75], rtol=1e-4)


def test_losses_are_divided_by_the_anchors_with_a_box():
    rng = np.random.default_rng(1)
    logits, deltas, targets = (rng.standard_normal((2, 6, n)).astype(np.float32) for n in (3, 4, 4))
    labels = np.array([[0, 1, 2, 3, 3, -1], [3] * 6], np.int32)
    cls, box = retinanet_losses(*map(ms.Tensor, (logits, deltas, labels, targets)))
    np.testing.assert_allclose(float(cls), formula(logits, labels) / 4, rtol=1e-5)  # 3, and 1 for the empty image
    np.testing.assert_allclose(float(box), np.abs(deltas - targets)[0, :3].sum() / 4, rtol=1e-5)
    _, box = retinanet_losses(*map(ms.Tensor, (logits, deltas, np.full((2, 6), 3, np.int32), targets)))
    assert float(box) == 0


@pytest.mark.parametrize(("given", "side"), [([], 96), (["--train_scale", "64", "64"], 64)])
def test_training_may_resize_images_to_other_sides_than_validation(data, given, side):
    task = task_of("retinanet")
    words = [*NETWORK, "--dataset", "digits_scenes", "--data_dir", str(data), "--img_scale", "96", "96", *given]
    options = task.prepare(parse(task.train_options, "", words), ONE_DEVICE)
    images, *_ = next(task.train_loader(options, ONE_DEVICE).epoch(1))
    assert images.shape[2:] == (side, side)
    assert eval_transform(options).buckets.scale == (96, 96)


class Outputs(nn.Cell):
    """A network that gives the images back as logits, and zeros as deltas."""

    def construct(self, images):
        return images, ops.zeros((*images.shape[:2], 4), ms.float32)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_loss_of_classes_has_a_weight(weight):
    rng = np.random.default_rng(2)
    logits, targets = (rng.standard_normal((1, 4, n)).astype(np.float32) for n in (3, 4))
    labels = np.array([[0, 3, 3, -1]], np.int32)
    loss, (cls, box) = RetinaNetObjective(Outputs(), cls_weight=weight)(*map(ms.Tensor, (logits, labels, targets)))
    np.testing.assert_allclose(float(cls), formula(logits, labels), rtol=1e-5)
    np.testing.assert_allclose(float(box), np.abs(targets[0, 0]).sum(), rtol=1e-5)
    np.testing.assert_allclose(float(loss), weight * float(cls) + float(box), rtol=1e-6)


def test_rows_are_in_the_order_of_anchors():
    """Row ``(y * width + x) * 9 + a`` of a level is anchor a of cell (y, x)."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = create_model("retinanet", backbone="tiny_features", num_classes=2, channels=8, convs=1)
    x = ms.Tensor(parity.images(1, 64, 96))
    logits, deltas = network.set_train(False)(x)
    classes, boxes = network.bbox_head.level(network.neck(network.backbone(x))[0])  # (1, 9 * 2, 8, 12)
    y, column, anchor = 5, 7, 4
    row = (y * 12 + column) * 9 + anchor
    np.testing.assert_allclose(logits[0, row].asnumpy(), classes[0, 8:10, y, column].asnumpy(), rtol=1e-5)
    np.testing.assert_allclose(deltas[0, row].asnumpy(), boxes[0, 16:20, y, column].asnumpy(), rtol=1e-5)
    prior = network.bbox_head.retina_cls.bias.asnumpy()
    np.testing.assert_allclose(prior, -np.log(99), rtol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def run(data, killed, tmp_path_factory):
    """A finished run: two epochs of three steps."""
    return finished_run(RUN, data, tmp_path_factory.mktemp("run"), killed)


@pytest.mark.process
def test_a_run_reports_its_losses_by_part_and_its_precision(run):
    first, second = ({k: float(v) for k, v in row.items() if v} for row in rows(run / "results.csv"))
    for row in (first, second):
        np.testing.assert_allclose(row["train_loss"], row["train_cls"] + row["train_box"], rtol=1e-4)
        assert {"box_ap", "box_ap50", "ema_box_ap", "ema_box_ap50"} <= set(row)
        assert 0 <= row["ema_box_ap"] <= row["ema_box_ap50"] <= 1
    assert second["train_loss"] < first["train_loss"]
    assert (run / "classes.txt").read_text().split() == list("0123456789")
    assert (run / "retinanet_best.ckpt").is_file() and checkpoint(run).is_file()


@pytest.mark.process
def test_a_killed_run_is_resumed_bit_for_bit(run, data, killed):
    """It is killed before the second step of its second epoch."""
    assert checkpoint(resumed(RUN, data, killed)).read_bytes() == checkpoint(run).read_bytes()


def checkpoint(run):
    return run / "retinanet_last.ckpt"


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """What validation of the run's last checkpoint wrote: results and a report."""
    return found_by_one(run, checkpoint(run), tmp_path_factory.mktemp("found"))


@pytest.mark.process
def test_validation_writes_results_that_score_the_same(run, found, tmp_path):
    results, report = found / "found.json", found / "report"
    entries = json.loads(results.read_text())
    assert entries and set(entries[0]) == {"image_id", "category_id", "bbox", "score"}
    code, _ = call(validate.main, "--config", run / "config.yaml", "--distribute", "False", "--results", results,
                   "--report_dir", tmp_path / "again")  # fmt: skip
    assert code == 0
    tables = [rows(folder / "results.csv") for folder in (report, tmp_path / "again")]
    assert tables[0][0]["box_ap"] == tables[1][0]["box_ap"]
    trained = rows(run / "results.csv")[-1]  # whose averages are what is validated
    assert trained["ema_box_ap"] != trained["box_ap"]
    np.testing.assert_allclose(float(tables[0][0]["box_ap"]), float(trained["ema_box_ap"]), rtol=1e-4)
    own = report / checkpoint(run).stem
    assert len(rows(own / "per_class.csv")) == 10
    assert Image.open(own / "box_precision_recall.png").size[0] > 300


@pytest.mark.process
def test_prediction_draws_and_tells(run, data, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    scene = Image.open(sorted((data / "val2017").glob("*.jpg"))[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    scene.save(pictures / "turned.jpg", exif=exif, quality=95)
    scene.convert("L").save(pictures / "grey.png")
    (pictures / "broken.jpg").write_bytes(b"no image")
    given = ["--config", run / "config.yaml", "--ckpt_path", checkpoint(run), "--score_threshold", "0.001",
             "--min_score", "0"]  # fmt: skip
    code, out = call(infer.main, *given, "--images", pictures, "--format", "json", "--output_dir", tmp_path / "found")
    assert code == 1
    told = {row["image"].rpartition("/")[2]: row for row in json.loads(out)}
    assert "error" in told["broken.jpg"] and "detections" in told["grey.png"]
    assert json.loads((tmp_path / "found" / "detections.json").read_text()) == json.loads(out)
    lines = (tmp_path / "found" / "detections.csv").read_text().splitlines()
    assert lines[0] == "image,class,score,x1,y1,x2,y2"
    assert len(lines) == 1 + sum(len(row.get("detections", ())) for row in told.values())
    assert Image.open(tmp_path / "found" / "turned.png").size == scene.size[::-1]
    assert Image.open(tmp_path / "found" / "grey.png").size == scene.size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--img_scale", "96"], "must be two numbers, such as 1333 800"),
        (["--train_scale", "96"], "train_scale is 96, but must be two numbers, such as 800 480"),
        (["--num_classes", "3"], "num_classes is 3, but there are 10 categories"),
        (["--backbone", "pvt_v2_b0"], "gives no feature maps"),
        (["--window_size", "2"], "window_size"),
        (["--dataset", "digit_scenes"], "did you mean digits_scenes"),
        (["--anchor_scale", "0"], "anchor_scale"),
        (["--hflip", "2"], "hflip"),
        (["--cls_weight", "0"], "cls_weight is 0.0, but must be above 0"),
        (["--score_threshold", "1"], "score_threshold"),
        (["--train_annotations", "none.json"], "no file of annotations at none.json"),
    ],
)
def test_bad_options_are_one_line_and_status_2(options, message, data, tmp_path, capfd):
    code, _ = call(train.main, *RUN, "--data_dir", data, "--ckpt_save_dir", tmp_path, *options)
    assert refused_in_one_line(code, capfd.readouterr().err, message)


@pytest.mark.process
def test_two_ranks_find_what_one_finds(run, found, tmp_path):
    """Each image is searched once; four images and two, in batches of four."""
    found_by_two_ranks(run, checkpoint(run), tmp_path)
    one, two = (json.loads((folder / "found.json").read_text()) for folder in (found, tmp_path))
    assert [(r["image_id"], r["category_id"]) for r in one] == [(r["image_id"], r["category_id"]) for r in two]
    for key in ("bbox", "score"):
        np.testing.assert_allclose([r[key] for r in two], [r[key] for r in one], rtol=0, atol=1e-4)


@pytest.mark.process
def test_checkpoints_go_to_the_official_names_and_back(run, tmp_path):
    """As mmdetection writes them; a tensor that is missing is refused."""
    official = tmp_path / "official.safetensors"
    model = ["--model", "retinanet", "--backbone", "tiny_features", "--model_kwargs", "channels=8", "convs=1"]
    code, _ = call(convert_torch_weights.main, *model, "--to_torch", checkpoint(run), "--output", official)
    assert code == 0
    tensors = load_file(official)
    assert tensors["bbox_head.retina_cls.weight"].shape == (90, 8, 3, 3)
    assert "neck.fpn_convs.4.conv.bias" in tensors and "backbone.stem.1.running_mean" in tensors
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    envelope = {"meta": {"CLASSES": ("0", "1")}, "state_dict": state, "optimizer": {"state": {}}, "amp": {"scale": 1.0}}
    torch.save(envelope, tmp_path / "detector.pth")
    back = tmp_path / "back.ckpt"
    code, _ = call(convert_torch_weights.main, *model, "--torch_path", tmp_path / "detector.pth", "--output", back)
    assert code == 0
    network = create_model("retinanet", backbone="tiny_features", num_classes=10, channels=8, convs=1)
    values = []
    for path in (checkpoint(run), back):
        load_weights(network, str(path), False)
        values.append({p.name: p.asnumpy().copy() for p in network.get_parameters()})
    assert values[0].keys() == values[1].keys()
    assert all(np.array_equal(values[0][name], values[1][name]) for name in values[0])
    del envelope["state_dict"]["neck.fpn_convs.4.conv.bias"]
    torch.save(envelope, tmp_path / "less.pth")
    code, _ = call(convert_torch_weights.main, *model, "--torch_path", tmp_path / "less.pth", "--output", back)
    assert code == 2


@pytest.mark.process
@pytest.mark.parametrize("suffix", ["onnx", "mindir"])
def test_raw_outputs_are_exported(run, tmp_path, suffix):
    code, _ = call(export.main, *NETWORK, "--ckpt_path", checkpoint(run), "--anchor_scale", "2", "--image_resize", "64",
                   "96", "--output", tmp_path / f"raw.{suffix}")  # fmt: skip
    assert code == 0
    assert (tmp_path / f"raw.{suffix}").stat().st_size > 10_000


@pytest.mark.process
def test_a_file_gives_final_boxes(run, tmp_path):
    """ONNX Runtime alone finds what the network and NumPy find, in images of two sizes and batches of two."""
    path = tmp_path / "detector.onnx"
    code, _ = call(export.main, *NETWORK, "--ckpt_path", checkpoint(run), "--anchor_scale", "2", "--image_resize", "64",
                   "96", "--score_threshold", "0.001", "--detections", "True", "--output", path)  # fmt: skip
    assert code == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = create_model("retinanet", backbone="tiny_features", num_classes=10, channels=8, convs=1, anchor_scale=2)
    load_weights(network, str(checkpoint(run)), False)
    images = parity.images(2, 64, 96)
    sizes, scales = np.float32([[64, 96], [50, 70]]), np.float32([[1, 1], [2, 1.5]])
    (rows,) = session.run(None, {"images": images, "sizes": sizes, "scales": scales})
    detector = Detector(network.set_train(False), Limits(0.001))
    for k, found in enumerate(detector(images, sizes, scales, np.ones(2, bool))):
        own = rows[rows[:, 0] == k]
        assert len(own) == len(found.boxes) > 0
        np.testing.assert_allclose(own[:, 5], found.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(own[:, 1:5].sum(0), found.boxes.sum(0), rtol=1e-3)


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image_resize", "100", "96"], "must be multiples of 32"),
        (["--detections", "True", "--output", "a.mindir"], "give it the ending .onnx"),
        (["--detections", "True", "--batch_size", "2"], "with detections a file takes any"),
    ],
)
def test_export_refuses_what_cannot_be(run, options, message, capfd):
    given = [*NETWORK, "--ckpt_path", checkpoint(run), "--output", "a.onnx"]
    if "--output" in options:
        given = given[:-2]
    code, _ = call(export.main, *given, *options)
    assert code == 2 and message in capfd.readouterr().err


@pytest.mark.process
def test_a_backbone_starts_from_a_classifier(run, data, tmp_path):
    """Its tensors are the classifier's, and the head's are its own."""
    classifier = create_model("tiny_features", num_classes=2)
    ms.set_seed(5)
    for parameter in classifier.get_parameters():
        parameter.set_data(ms.Tensor(np.random.default_rng(parameter.size).random(parameter.shape, np.float32)))
    save_checkpoint(classifier.get_parameters(), tmp_path / "classifier.ckpt")
    network = create_model("retinanet", backbone="tiny_features", num_classes=10, channels=8, convs=1)
    load_backbone(network.backbone, str(tmp_path / "classifier.ckpt"))
    for parameter in classifier.get_parameters():
        np.testing.assert_array_equal(
            network.parameters_dict()[f"backbone.{parameter.name}"].asnumpy(), parameter.asnumpy()
        )

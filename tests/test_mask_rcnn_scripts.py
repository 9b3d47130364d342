"""Mask R-CNN through the scripts, on a few scenes."""

import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from pycocotools import mask as coco
from safetensors.numpy import load_file

import convert_torch_weights
import export
import infer
import train
import validate
from mindcv_models.checkpoint import load_weights
from mindcv_models.detection.mask_predict import MaskDetector
from mindcv_models.detection.predict import Limits, sigmoid
from mindcv_models.models.registry import create_model
from tests.helpers import parity
from tests.helpers.scripts import rows
from tests.helpers.tiny_detector import (
    MASK_NETWORK,
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
RUN = [*MASK_NETWORK, *TWO_EPOCHS, *VIEWS, "--lr", "0.005", "--regions", "60", "--region_samples", "24"]
PARTS = ("rpn_cls", "rpn_box", "cls", "box", "mask")
MODEL = {"backbone": "tiny_pyramid", "num_classes": 10, "channels": 8, "convs": 1}


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


def checkpoint(run):
    return run / "mask_rcnn_last.ckpt"


@pytest.mark.process
def test_a_run_reports_five_losses_and_the_precision_of_boxes_and_masks(run):
    first, second = ({k: float(v) for k, v in row.items() if v} for row in rows(run / "results.csv"))
    for row in (first, second):
        np.testing.assert_allclose(row["train_loss"], sum(row[f"train_{part}"] for part in PARTS), rtol=1e-4)
        for kind in ("box", "mask"):
            assert 0 <= row[f"{kind}_ap"] <= row[f"{kind}_ap50"] <= 1
    assert second["train_loss"] < first["train_loss"]
    assert (run / "mask_rcnn_best.ckpt").is_file()


@pytest.mark.process
def test_a_killed_run_is_resumed_bit_for_bit(run, data, killed):
    """It is killed before the second step of its second epoch; the random numbers of samples come with batches."""
    assert checkpoint(resumed(RUN, data, killed)).read_bytes() == checkpoint(run).read_bytes()


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """What validation of the run's last checkpoint wrote: results and a report."""
    return found_by_one(run, checkpoint(run), tmp_path_factory.mktemp("found"))


@pytest.mark.process
def test_validation_writes_masks_that_score_the_same(run, found, tmp_path):
    results, report = found / "found.json", found / "report"
    entries = json.loads(results.read_text())
    assert entries and set(entries[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert coco.decode(entries[0]["segmentation"]).shape == tuple(entries[0]["segmentation"]["size"])
    code, _ = call(validate.main, "--config", run / "config.yaml", "--distribute", "False", "--results", results,
                   "--report_dir", tmp_path / "again")  # fmt: skip
    assert code == 0
    first, again = (rows(folder / "results.csv")[0] for folder in (report, tmp_path / "again"))
    assert first["mask_ap"] == again["mask_ap"] and first["box_ap"] == again["box_ap"]
    own = report / checkpoint(run).stem
    assert {"box_ap", "mask_ap"} <= set(rows(own / "per_class.csv")[0])
    assert Image.open(own / "mask_precision_recall.png").size[0] > 300


@pytest.mark.process
def test_results_with_a_broken_mask_are_refused(run, data, tmp_path, capfd):
    images = json.loads((data / "annotations" / "instances_val2017.json").read_text())["images"]
    found = {"image_id": images[0]["id"], "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5,
             "segmentation": {"size": [1, 2], "counts": [2]}}  # fmt: skip
    path = tmp_path / "found.json"
    path.write_text(json.dumps([found]))
    code, _ = call(validate.main, "--config", run / "config.yaml", "--distribute", "False", "--results", path)
    assert code == 2 and "result 0: the run lengths are of size [1, 2]" in capfd.readouterr().err


@pytest.mark.process
def test_prediction_tells_and_draws_masks(run, data, tmp_path):
    scene = sorted((data / "val2017").glob("*.jpg"))[0]
    code, out = call(infer.main, "--config", run / "config.yaml", "--ckpt_path", checkpoint(run), "--score_threshold",
                     "0.001", "--min_score", "0", "--images", scene, "--format", "json", "--output_dir",
                     tmp_path / "found")  # fmt: skip
    assert code == 0
    (row,) = json.loads(out)
    size = Image.open(scene).size
    assert row["detections"]
    for found in row["detections"]:
        assert found["mask"]["size"] == list(size[::-1])
        x, y, w, h = coco.toBbox(found["mask"])
        x1, y1, x2, y2 = found["box"]
        margin = 2 + max(x2 - x1, y2 - y1) / 28
        assert w == 0 or (x >= x1 - margin and y >= y1 - margin and x + w <= x2 + margin and y + h <= y2 + margin)
    assert Image.open(tmp_path / "found" / f"{scene.stem}.png").size == size


@pytest.mark.process
def test_two_ranks_find_what_one_finds(run, found, tmp_path):
    found_by_two_ranks(run, checkpoint(run), tmp_path)
    one, two = (json.loads((folder / "found.json").read_text()) for folder in (found, tmp_path))
    assert one == two


@pytest.mark.process
def test_checkpoints_go_to_the_official_names_and_back(run, tmp_path):
    official, back = tmp_path / "official.safetensors", tmp_path / "back.ckpt"
    model = ["--model", "mask_rcnn", "--backbone", "tiny_pyramid", "--model_kwargs", "channels=8", "convs=1"]
    code, _ = call(convert_torch_weights.main, *model, "--to_torch", checkpoint(run), "--output", official)
    assert code == 0
    tensors = load_file(official)
    assert tensors["roi_head.mask_head.upsample.weight"].shape == (8, 8, 2, 2)
    assert {"rpn_head.rpn_conv.weight", "roi_head.bbox_head.shared_fcs.0.bias"} <= set(tensors)
    code, _ = call(convert_torch_weights.main, *model, "--torch_path", official, "--output", back)
    assert code == 0
    network, values = create_model("mask_rcnn", **MODEL), []
    for path in (checkpoint(run), back):
        load_weights(network, str(path), False)
        values.append({p.name: p.asnumpy().copy() for p in network.get_parameters()})
    assert all(np.array_equal(values[0][name], values[1][name]) for name in values[0])


@pytest.mark.process
def test_raw_outputs_are_exported(run, tmp_path):
    code, _ = call(export.main, *MASK_NETWORK, "--ckpt_path", checkpoint(run), "--anchor_scale", "2", "--image_resize",
                   "64", "96", "--output", tmp_path / "raw.onnx")  # fmt: skip
    assert code == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "raw.onnx"), providers=["CPUExecutionProvider"])
    assert len(session.get_outputs()) == 15  # logits, deltas and maps of five levels


@pytest.mark.process
def test_a_file_gives_final_boxes_and_masks(run, tmp_path):
    """ONNX Runtime alone finds what the graphs find, in images of two sizes and batches of two."""
    path = tmp_path / "detector.onnx"
    code, _ = call(export.main, *MASK_NETWORK, "--ckpt_path", checkpoint(run), "--anchor_scale", "2", "--image_resize",
                   "64", "96", "--score_threshold", "0.01", "--detections", "True", "--output", path)  # fmt: skip
    assert code == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = create_model("mask_rcnn", anchor_scale=2, **MODEL)
    load_weights(network, str(checkpoint(run)), False)
    images = parity.images(2, 64, 96)
    sizes, scales = np.float32([[64, 96], [50, 70]]), np.float32([[1, 1], [2, 1.5]])
    rows, masks = session.run(None, {"images": images, "sizes": sizes, "scales": scales})
    detector = MaskDetector(network.set_train(False), Limits(0.01))
    for k, found in enumerate(detector(images, sizes, scales, np.ones(2, bool))):
        own = rows[:, 0] == k
        assert own.sum() == len(found.boxes) > 0
        np.testing.assert_allclose(rows[own, 5], found.scores, rtol=0, atol=1e-4)
        np.testing.assert_allclose(rows[own, 1:5].sum(0), found.boxes.sum(0), rtol=1e-3)
        np.testing.assert_allclose(masks[own].mean(), sigmoid(found.masks).mean(), rtol=1e-3)
    detector(images * np.float32(1.001), sizes, scales, np.ones(2, bool))
    assert len(detector.first.compile_cache) == len(detector.second.compile_cache) == 1  # no image is a compilation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--region_samples", "3"], "region_samples"),
        (["--regions", "0"], "regions"),
        (["--backbone", "tiny_features"], "but not of 4: choose another backbone"),
        (["--channels", "0"], "channels"),
    ],
)
def test_bad_options_are_one_line_and_status_2(options, message, data, tmp_path, capfd):
    code, _ = call(train.main, *RUN, "--data_dir", data, "--ckpt_save_dir", tmp_path, *options)
    assert refused_in_one_line(code, capfd.readouterr().err, message)


def test_objects_without_masks_are_refused_with_their_image(data, tmp_path, capfd):
    content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    code, _ = call(train.main, *RUN, "--data_dir", data, "--ckpt_save_dir", tmp_path / "run", "--train_annotations",
                   path, "--image_dir", data / "train2017", "--val_while_train", "False")  # fmt: skip
    assert code == 2
    assert "has no segmentation, but Mask R-CNN learns from masks" in capfd.readouterr().err

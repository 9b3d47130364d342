"""Segmentation by the scripts, over a small backbone: training, resuming, validating, predicting."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import dense_tiny
from tests.helpers.label_maps import label_folder
from tests.helpers.launch import TWO_RANKS
from tests.helpers.launch import run as launched
from tests.helpers.runs import killed_copy, states

MODEL = ["--model", "semantic_fpn", "--backbone", "tiny_maps", "--channels", "8", "--head_channels", "8"]
OPTIONS = [
    *MODEL, "--crop_size", "32", "32", "--batch_size", "2", "--num_parallel_workers", "1", "--epoch_size", "2",
    "--opt", "adamw", "--lr", "0.01", "--scheduler", "poly", "--warmup_epochs", "0", "--ema", "True", "--ema_decay",
    "0.9", "--val_while_train", "True", "--pad_divisor", "32", "--keep_checkpoint_max", "1", "--drop_rate", "0.3",
    "--save_every", "2",
]  # fmt: skip

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return label_folder(tmp_path_factory.mktemp("data"))


def train(data, output, *more):
    return dense_tiny.call("train", *OPTIONS, "--data_dir", data, "--ckpt_save_dir", output, *more)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def run(data, killed, tmp_path_factory):
    """The folder of a run of two epochs of three steps; ``killed`` is what it would leave if killed in the second."""
    output = tmp_path_factory.mktemp("run")
    with killed_copy(output, killed, epoch=2, step=1):
        assert train(data, output) == 0
    return output


def rows(output):
    with open(output / "results.csv") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)
        ]


def test_results_have_the_figures_of_the_network_and_of_its_average(run):
    figures = ["miou", "mean_accuracy", "pixel_accuracy"]
    assert list(rows(run)[0]) == [
        "epoch", "lr", "train_loss", "train_pixel_accuracy", *figures, *(f"ema_{name}" for name in figures)
    ]  # fmt: skip
    assert all(0 < float(row["ema_miou"]) < 1 for row in rows(run))
    assert (run / "classes.txt").read_text() == "wall\nsky\ntree\n"


def test_a_killed_run_goes_on_bit_for_bit(data, run, killed):
    """It is killed before the second step of its second epoch."""
    assert states(killed)[-1] == (2, 1)
    assert train(data, killed, "--resume", "auto") == 0
    assert rows(killed) == rows(run)
    for path in run.glob("*.ckpt"):
        assert (killed / path.name).read_bytes() == path.read_bytes(), path.name


def validated(run, *more):
    return [*MODEL, "--ckpt_path", str(run / "semantic_fpn_best.ckpt"), "--ema", "True",
            "--pad_divisor", "32", "--batch_size", "2", *more]  # fmt: skip


def test_validation_gives_the_same_figures_and_those_of_each_class(data, run, tmp_path):
    words = validated(run, "--report_dir", str(tmp_path), "--data_dir", str(data))
    assert dense_tiny.call("validate", *words) == 0
    with open(tmp_path / "results.csv") as file:
        (row,) = csv.DictReader(file)
    best = max(rows(run), key=lambda r: float(r["ema_miou"]))
    for name in ("miou", "mean_accuracy", "pixel_accuracy"):
        np.testing.assert_allclose(float(row[name]), float(best[f"ema_{name}"]), rtol=1e-5)
    folder = tmp_path / "semantic_fpn_best"
    with open(folder / "per_class.csv") as file:
        classes = list(csv.DictReader(file))
    assert [c["class"] for c in classes] == ["wall", "sky", "tree"]
    matrix = np.loadtxt(folder / "confusion_matrix.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3), dtype=int)
    assert matrix.sum(1).tolist() == [int(c["labelled_pixels"]) for c in classes]
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    np.testing.assert_allclose([float(c["iou"]) for c in classes], ious, rtol=1e-5)
    assert (folder / "confusion_matrix.png").stat().st_size > 1000


def test_prediction_writes_label_maps_pictures_and_shares(data, run, tmp_path, capfd):
    pictures = data / "images/validation"
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    words = [*MODEL, "--ckpt_path", run / "semantic_fpn_best.ckpt", "--ema", "True", "--pad_divisor", "32",
             "--images", pictures, tmp_path / "broken.jpg", "--format", "json", "--first_label", "1",
             "--output_dir", tmp_path / "drawn", "--labels_dir", tmp_path / "labels"]  # fmt: skip
    capfd.readouterr()
    assert dense_tiny.call("infer", *words) == 1  # one of them is broken
    captured = capfd.readouterr()
    assert "cannot decode" in captured.err and "broken.jpg" in captured.err
    found = json.loads(captured.out[captured.out.index("[\n") :])
    assert "error" in found[-1] and len(found) == 4
    for row in found[:3]:
        name = Path(row["image"]).stem
        labels = np.asarray(Image.open(tmp_path / "labels" / f"{name}.png"))
        original = Image.open(row["image"])
        assert labels.shape == original.size[::-1]
        for entry in row["classes"]:
            np.testing.assert_allclose((labels == entry["label"] + 1).mean(), entry["share"], atol=1e-6)
        assert Image.open(tmp_path / "drawn" / f"{name}.png").width > original.width


def test_two_ranks_count_every_pixel_once(data, run, tmp_path):
    words = validated(run, "--data_dir", str(data), "--distribute", "True")
    done = launched(*TWO_RANKS, "-m", "tests.helpers.dense_tiny", "validate", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    best = max(float(row["ema_miou"]) for row in rows(run))
    (said,) = re.findall(r"mIoU (\S+) %.* on 3 images", done.stdout)
    assert said == f"{100 * best:.2f}"

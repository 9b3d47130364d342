"""train.py and validate.py as a user runs them, and what they say to wrong input."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mindspore import load_checkpoint

from mindcv_models.classification.options import TrainOptions
from mindcv_models.classification.transforms import TrainTransform
from mindcv_models.options import parse
from tests.helpers.images import image_folder
from tests.helpers.launch import PATIENCE
from tests.helpers.scripts import MINDCV_RECIPE, call, common, train_arguments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path):
    return image_folder(tmp_path / "images")


@pytest.mark.parametrize("mode", ["0", "1"])
def test_training_writes_what_it_says_and_validation_repeats_it(data, tmp_path, monkeypatch, capsys, caplog, mode):
    output = tmp_path / "out"
    caplog.set_level("INFO")
    arguments = train_arguments(data, output, "--mode", mode, "--keep_checkpoint_max", "1")
    status, _, error = call("train", arguments, monkeypatch, capsys)
    assert status == 0, error
    names = sorted(p.name for p in output.iterdir())
    checkpoints = [f"tiny{which}.ckpt" for which in ("-2_3", "_best", "_last")]
    assert names == sorted(["classes.txt", "config.yaml", "report", "results.csv", "state", *checkpoints])
    assert (output / "classes.txt").read_text() == "a\nb\n"
    assert "| epochs | 2 of 2 |" in (output / "report" / "summary.md").read_text()
    with open(output / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "lr", "train_loss", "images_per_second", "val_loss", "top1", "top2", "seconds"]
    resolved = parse(TrainOptions, "", ["-c", str(output / "config.yaml")])
    assert (resolved.num_classes, resolved.epoch_size, resolved.model) == (2, 2, "tiny")

    caplog.clear()
    again = [*common(data), "--mode", mode, "--ckpt_path", str(output / "tiny_last.ckpt")]
    status, _, error = call("validate", again, monkeypatch, capsys)
    assert status == 0, error
    assert f"top-1 {100 * float(rows[-1]['top1']):.2f} %" in caplog.text
    assert "on 7 images" in caplog.text


@pytest.mark.process
def test_a_recipe_of_mindcv_runs_unchanged(tmp_path):
    data = image_folder(tmp_path / "images", train=(("a", 20), ("b", 20)))
    recipe = tmp_path / "resnet_18_ascend.yaml"
    recipe.write_text(MINDCV_RECIPE.replace("num_classes: 1000", "num_classes: 2"))
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(recipe), "--data_dir", str(data),
               "--distribute", "False", "--epoch_size", "1", "--decay_epochs", "1", "--image_resize", "64"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "ckpt" / "resnet18_last.ckpt").exists()
    assert "11,177,538 parameters" in done.stdout


@pytest.mark.parametrize(
    "more",
    [
        "--ema True --ema_decay 0.5 --gradient_accumulation_steps 2 --clip_grad True --tensorboard True".split(),
        ["--mixup", "0.2", "--cutmix", "1.0", "--loss", "BCE", "--loss_scale_type", "dynamic", "--loss_scale", "64"],
        ["--auto_augment", "randaug-m9-mstd0.5-inc1", "--re_prob", "0.5", "--re_value", "random", "--aug_repeats", "3"],
        ["--amp_level", "O3", "--loss_scale", "128", "--drop_overflow_update", "True", "--ckpt_save_policy", "top_k"],
    ],
    ids=["ema-accumulation-clip", "mixing-bce-dynamic-scale", "augmentation", "half-precision"],
)
def test_options_of_the_training_step_work_together(data, tmp_path, monkeypatch, capsys, more):
    status, _, error = call("train", train_arguments(data, tmp_path / "out", *more), monkeypatch, capsys)
    assert status == 0, error
    with open(tmp_path / "out" / "results.csv") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert (tmp_path / "out" / "tensorboard").is_dir() == ("--tensorboard" in more)
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_a_finetuned_network_gets_a_new_head(data, tmp_path, monkeypatch, capsys):
    first = train_arguments(data, tmp_path / "two", "--epoch_size", "1")
    assert call("train", first, monkeypatch, capsys)[0] == 0
    three = image_folder(tmp_path / "three", train=(("a", 4), ("b", 4), ("c", 4)), val=(("a", 1), ("b", 1), ("c", 1)))
    start = ["--ckpt_path", str(tmp_path / "two" / "tiny_last.ckpt"), "--epoch_size", "1"]
    status, _, error = call("train", train_arguments(three, tmp_path / "out", *start), monkeypatch, capsys)
    assert status == 2
    assert "--new_head True" in error
    # Tiny's registry entry names its classifier; that is what is left out.
    status, _, error = call(
        "train", train_arguments(three, tmp_path / "out", *start, "--new_head", "True"), monkeypatch, capsys
    )
    assert status == 0, error


# What is wrong, relative to the folder that ``ruined`` makes, and what the error must say.
WRONG = {
    "no data": (["--data_dir", "absent"], "no folder"),
    "empty data": (["--data_dir", "empty"], "no folder"),
    "classes": (["--num_classes", "9"], "has 2 classes: use --num_classes 2"),
    "corrupt image": (["--data_dir", "broken"], "cannot decode image"),
    "model": (["--model", "fastvit_t9"], "unknown model 'fastvit_t9': did you mean fastvit_t8?"),
    "optimizer": (["--opt", "adamwww"], "did you mean adamw?"),
    "key": (["--learning_rate", "1"], "unknown option --learning_rate"),
    "value": (["--lr", "high"], "lr is 'high', but must be a number."),
    "config": (["-c", "text.yaml"], "is not YAML"),
    "checkpoint": (["--ckpt_path", "absent.ckpt"], "no checkpoint at"),
    "output": (["--ckpt_save_dir", "file/out"], "cannot write to"),
    "device": (["--device_target", "Ascend"], "device_target Ascend is not usable on this machine"),
    "model option": (["--model", "squeezenet1_1", "--drop_path_rate", "0.1"], "drop_path_rate"),
    "model_kwargs": (["--model_kwargs", "depth=3"], "unexpected keyword argument 'depth'"),
    "split": (["--data_dir", "images/train", "--val_ratio", "0.5", "--freeze", "x"], "freeze 'x' matches no"),
}


@pytest.fixture
def ruined(tmp_path, monkeypatch):
    """A working folder with one of everything that is wrong."""
    broken = image_folder(tmp_path / "broken")
    for image in (broken / "train" / "a").iterdir():
        image.write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "text.yaml").write_text("a: b: c")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_to_training_is_one_line_and_status_2(data, tmp_path, ruined, monkeypatch, capsys, case):
    """And the working folder is as it was, also where the error came after the output folder had been made."""
    more, message = WRONG[case]
    before = sorted(tmp_path.rglob("*"))
    status, _, error = call("train", train_arguments(data, tmp_path / "out", *more), monkeypatch, capsys)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "ckpt_path is missing"),
        (["--ckpt_path", "absent.ckpt"], "no checkpoint at absent.ckpt"),
    ],
)
def test_wrong_input_to_validation_is_one_line_and_status_2(data, tmp_path, monkeypatch, capsys, more, message):
    status, _, error = call("validate", [*common(data), *more], monkeypatch, capsys)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_data_worker_that_dies_stops_the_run_and_leaves_its_checkpoints(data, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    arguments = train_arguments(data, output, "--num_parallel_workers", "2")

    def dying(transform):
        calls = []

        def call(self, image, rng):
            calls.append(1)
            if len(calls) > 16:  # in the second epoch: the first shows 12 images
                raise MemoryError("cannot allocate 1 GB")
            return transform(self, image, rng)

        return call

    monkeypatch.setattr(TrainTransform, "__call__", dying(TrainTransform.__call__))
    status, _, error = call("train", arguments, monkeypatch, capsys)
    assert status == 1
    assert re.fullmatch(
        r"error: a data worker died \(MemoryError: cannot allocate 1 GB at .*\.png\); checkpoints stay as they are\.",
        error.strip().splitlines()[-1],
    )
    first = output / "tiny_last.ckpt"
    assert load_checkpoint(str(first)) and (output / "results.csv").read_text().count("\n") == 2
    assert not list(output.glob("*partial*"))

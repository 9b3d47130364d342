"""Runs that are killed, stopped or broken, and what they leave; resuming goes on bit for bit."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mindcv_models import create_model
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.data.loader import Loader
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.training.state_files import StateFiles
from tests.helpers import tiny  # noqa: F401, it registers the network
from tests.helpers.images import image_folder
from tests.helpers.runs import (
    EPOCHS,
    ROOT,
    STEPS,
    arguments,
    arrays,
    assert_same_run,
    at_step,
    call,
    in_training,
    killed_copy,
    rows,
    small_disk,
    states,
)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole")
    assert call(images, output) == 0
    return output


def test_raw_weights_and_their_average_are_both_validated_and_kept(whole):
    columns = list(rows(whole)[0])
    measured = ["val_loss", "top1", "top2", "ema_val_loss", "ema_top1", "ema_top2"]
    assert columns == ["epoch", "lr", "train_loss", *measured]
    assert any(row["val_loss"] != row["ema_val_loss"] for row in rows(whole))
    assert [row["epoch"] for row in rows(whole)] == ["1", "2", "3", "4"]
    assert states(whole) == [(EPOCHS, STEPS), (EPOCHS + 1, 0)]


def test_a_run_killed_twice_ends_as_one_that_was_not(images, whole, tmp_path):
    """First while it writes a state, then at any moment."""
    command = [sys.executable, "-m", "tests.helpers.tiny", "train", *arguments(images, tmp_path)]
    environment = {**os.environ, "DIE_IN_SAVE": "5", "PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr[-2000:]
    assert states(tmp_path) == [(1, 6), (2, 0)]
    assert [p for p in (tmp_path / "state").iterdir() if ".partial" in p.name]

    del environment["DIE_IN_SAVE"]
    second = subprocess.Popen(
        [*command, "--resume", "auto"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in second.stdout:
        if line.startswith("epoch 3/4 step"):
            time.sleep(np.random.default_rng().random() * 0.1)
            break
    second.kill()
    assert second.wait() == -signal.SIGKILL
    assert states(tmp_path)[-1] >= (3, 0)

    assert call(images, tmp_path, "--resume", "auto") == 0
    assert_same_run(tmp_path, whole)
    assert not [p for p in (*tmp_path.iterdir(), *(tmp_path / "state").iterdir()) if "partial" in p.name]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_lets_the_step_end_and_saves(images, whole, tmp_path, monkeypatch, caplog, request, number, status):
    def kill(batch):
        os.kill(os.getpid(), number)
        return batch

    caplog.set_level("INFO")
    original = signal.signal(number, signal.SIG_DFL)  # a shell may have it ignored
    request.addfinalizer(lambda: signal.signal(number, original))
    with monkeypatch.context() as patch:
        at_step(patch, 2, 4, kill)
        assert call(images, tmp_path) == status
    said = f"stopped by {number.name} after step 5 of 6 of epoch 2: the same command with --resume auto goes on"
    assert said in caplog.text
    assert signal.getsignal(number) == signal.SIG_DFL
    assert states(tmp_path) == [(2, 4), (2, 5)]
    assert call(images, tmp_path, "--resume", "auto") == 0
    assert "after 1 epochs and 5 steps" in caplog.text
    assert_same_run(tmp_path, whole)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Options that name a teacher."""
    path = tmp_path_factory.mktemp("teacher") / "tiny.ckpt"
    save_checkpoint(create_model("tiny", num_classes=2).get_parameters(), path)
    return ["--teacher_model", "tiny", "--teacher_path", str(path)]


@pytest.mark.parametrize(
    "more",
    [
        ["--distillation_type", "hard", "--mesa", "0.1", "--mesa_start_ratio", "0.25"],  # MESA from epoch 3 on
        ["--distillation_type", "soft", "--opt", "sophiag", "--lr", "0.001", "--sophia_k", "2"],
    ],
    ids=["hard distillation, MESA", "soft distillation, Sophia-G"],
)
def test_a_run_with_teachers_goes_on_bit_for_bit(images, teacher, tmp_path, more):
    """Killed within the third of four epochs, between two updates."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    with killed_copy(whole, output, epoch=3, step=2):
        assert call(images, whole, *teacher, *more) == 0
    assert states(output)[-1] == (3, 2)
    assert call(images, output, *teacher, *more, "--resume", "auto") == 0
    assert_same_run(output, whole)


def test_a_damaged_last_state_is_passed_over(images, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    last = next((tmp_path / "state").glob("*-5-0-rank0.npz"))
    os.truncate(last, last.stat().st_size - 100)
    assert call(images, tmp_path, "--resume", "auto") == 0
    assert f"{last} is damaged" in caplog.text
    assert_same_run(tmp_path, whole)


def test_a_state_file_says_what_was_put_in_or_that_it_is_damaged(tmp_path, caplog):
    files = StateFiles(tmp_path / "state", ONE_DEVICE)
    assert files.newest() is None
    values = {"a.b/c": np.arange(1000, dtype=np.float32), "half": np.ones(3, np.float16), "n": np.array(7, np.int32)}
    for step in range(4):
        files.save(1, step, {"x": step, "best": float("-inf")}, values)
    paths = sorted((tmp_path / "state").iterdir())
    assert [p.name.split("-", 1)[1] for p in paths] == ["1-2-rank0.npz", "1-3-rank0.npz"]
    newest = files.newest()
    metadata, found = newest.metadata, newest.arrays
    assert newest.path == paths[1] and metadata == {"x": 3, "best": float("-inf")}
    assert {n: (v.dtype, v.tolist()) for n, v in found.items()} == {n: (v.dtype, v.tolist()) for n, v in values.items()}
    with open(paths[1], "r+b") as file:  # one flipped bit
        file.seek(1500)
        byte = file.read(1)[0]
        file.seek(1500)
        file.write(bytes([byte ^ 4]))
    assert files.newest().metadata["x"] == 2
    assert "is damaged" in caplog.text
    with pytest.raises(InputError, match="is not a whole state"):
        files.read(paths[1])
    files.save(1, 2, {"x": "again"}, values)  # what came after it leads nowhere now
    assert [p.name.split("-", 1)[1] for p in (tmp_path / "state").iterdir()] == ["1-2-rank0.npz"]


def test_a_full_disk_ends_the_run_and_leaves_the_last_state(images, whole, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    output.mkdir()
    with small_disk(output, 2**20) as (make_full, make_room):
        with monkeypatch.context() as patch:
            at_step(patch, 2, 2, lambda batch: make_full() or batch)
            assert call(images, output) == 1
        make_room()
        error = capsys.readouterr().err
        assert re.search(r"error: cannot write.*(No space left on device|File too large).*--resume auto", error)
        assert states(output) == [(2, 0), (2, 2)]
        assert not [p for p in (*output.iterdir(), *(output / "state").iterdir()) if "partial" in p.name]
        assert call(images, output, "--resume", "auto") == 0
        assert_same_run(output, whole)


def not_a_number(batch):
    return batch * float("nan")


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(images, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 2, 3, not_a_number)
    assert call(images, tmp_path) == 1
    assert "error: the training loss is nan in epoch 2, by step 4 of 6" in capsys.readouterr().err
    assert states(tmp_path) == [(2, 0), (2, 2)]
    assert all(np.isfinite(value).all() for value in arrays(tmp_path).values())


def test_rollback_undoes_a_bad_batch_and_goes_on_with_the_next(images, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        at_step(patch, 2, 3, not_a_number)
        assert call(images, tmp_path, "--nan_policy", "rollback") == 0
    assert "Rollback 1 of 3: back to the weights of 2 batches ago" in caplog.text
    assert len(rows(tmp_path)) == EPOCHS
    assert all(np.isfinite(value).all() for value in arrays(tmp_path).values())
    # 24 batches, 2 of them undone, in updates of 4.
    assert arrays(tmp_path)["array/global_step"] == (EPOCHS * STEPS - 2) // 4


def test_rollback_gives_up_after_three_tries(images, tmp_path, monkeypatch, caplog, capsys):
    in_training(monkeypatch, lambda images, *at: not_a_number(images))
    assert call(images, tmp_path, "--nan_policy", "rollback") == 1
    assert caplog.text.count("Rollback") == 3
    assert "the training loss is nan in epoch 1, by step 4" in capsys.readouterr().err
    assert states(tmp_path) == [(1, 0)]


def test_a_run_at_chance_level_is_stopped(images, tmp_path, capsys):
    assert call(images, tmp_path, "--lr", "1e-9", "--min_lr", "0", "--stop_if_stuck", "2") == 1
    assert "validation was at chance level 2 times in a row" in capsys.readouterr().err
    assert len(rows(tmp_path)) == 2
    assert states(tmp_path)[-1] == (3, 0)


def test_a_run_that_gains_nothing_more_stops_early(images, tmp_path, caplog):
    caplog.set_level("INFO")
    assert call(images, tmp_path, "--lr", "1e-9", "--min_lr", "0", "--early_stopping", "2") == 0
    assert "early stopping: no better validation in the last 2" in caplog.text
    assert len(rows(tmp_path)) == 3 < EPOCHS


def test_a_data_worker_that_dies_ends_the_run_and_leaves_the_last_state(images, tmp_path, monkeypatch, capsys):
    read = Loader._sample

    def sample(self, index, epoch, place):
        if (epoch, place) == (2, 13):
            raise MemoryError("no room for an image")
        return read(self, index, epoch, place)

    monkeypatch.setattr(Loader, "_sample", sample)
    assert call(images, tmp_path) == 1
    assert "error: a data worker died" in capsys.readouterr().err
    assert states(tmp_path) == [(2, 0), (2, 2)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--batch_size", "2"], "batch_size was 4 in the run that saved the state, and is 2 here"),
        (["--ema", "False"], "ema was True"),
        (["--opt", "sgd"], "opt was adamw"),
        (["--num_samples", "20"], "batches an epoch was 6 in the run that saved the state, and is 5 here"),
        (["--resume", "absent"], "no state of a run at absent"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, list) else "",
)
def test_another_run_is_not_resumed(images, whole, tmp_path, capsys, more, says):
    shutil.copytree(whole / "state", tmp_path / "state")
    assert call(images, tmp_path, "--resume", "auto", *more) == 2
    assert says in capsys.readouterr().err


def test_another_number_of_classes_is_not_resumed(whole, tmp_path, capsys):
    three = image_folder(tmp_path / "three", train=[(c, 8) for c in "abc"], val=[(c, 1) for c in "abc"])
    assert call(three, tmp_path / "out", "--resume", str(whole)) == 2
    assert "num_classes was 2 in the run that saved the state, and is 3 here" in capsys.readouterr().err


def test_harmless_options_may_change_and_are_named(images, whole, tmp_path, caplog):
    assert call(images, tmp_path, "--resume", str(whole), "--lr", "0.02", "--epoch_size", "5") == 0
    assert "resuming with other options: epoch_size 5 (was 4), lr 0.02 (was 0.01)" in caplog.text
    assert rows(tmp_path)[:4] == rows(whole)
    assert len(rows(tmp_path)) == 5


def test_without_a_state_auto_starts_anew(images, tmp_path, caplog):
    caplog.set_level("INFO")
    assert call(images, tmp_path, "--resume", "auto", "--epoch_size", "1") == 0
    assert f"no state to resume from in {tmp_path / 'state'}: starting anew" in caplog.text

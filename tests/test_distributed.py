"""Data-parallel training under mpirun and msrun, on two CPU processes."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import Dict, NamedTuple

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import nn

from mindcv_models import backend, distributed
from mindcv_models.errors import InputError
from tests.helpers import runs
from tests.helpers.images import image_folder
from tests.helpers.launch import BIN, ENVIRONMENT, PATIENCE, ROOT, TWO_RANKS, run
from tests.helpers.ranks import in_modes
from tests.helpers.scripts import call, checkpoint, common
from tests.helpers.several import Done, several


def free_port():
    """A port of this machine for msrun, which takes 8118 otherwise, whoever has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def msrun(log_dir):
    """What starts two ranks of a script; its name and options follow."""
    return [BIN / "msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={free_port()}", "--join=True",
            f"--log_dir={log_dir}"]  # fmt: skip


@pytest.fixture(scope="module")
def one_rank():
    """Ten steps of one rank on the whole batch, compiled and eagerly."""
    results = in_modes("01", distributed.ONE_DEVICE)
    ms.set_context(mode=ms.GRAPH_MODE)
    return results


class Job(NamedTuple):
    """What two ranks did one thing after another, and the folder of their data and results."""

    folder: object
    done: Dict[str, Done]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Started by mpirun: ten steps in both modes, a training, a validation, one with an image that is broken."""
    folder = tmp_path_factory.mktemp("mpirun")
    data = image_folder(folder / "data", val=(("a", 3), ("b", 4)))
    shutil.copytree(data, folder / "bad")
    (folder / "bad" / "val" / "a" / "1.png").write_bytes(b"no image")
    weights = ["--ckpt_path", checkpoint(folder / "net.ckpt"), "--distribute", "True", "--report_dir"]
    scripts = {
        "steps": ("tests.helpers.ranks", [folder / "steps.json", "0", "1"]),
        "train": ("train", train_arguments(data, folder / "out", "--epoch_size", "2")),
        "validate": ("validate", [*common(data), *weights, folder / "two"]),
        "bad": ("validate", [*common(folder / "bad"), *weights, folder / "none"]),
    }
    done = several(lambda *words: run(*TWO_RANKS, *words), folder / "jobs", scripts.values())
    return Job(folder, dict(zip(scripts, done)))


@pytest.fixture(scope="module")
def two_workers(images, tmp_path_factory):
    """Started by msrun: ten compiled steps, and an epoch of training."""
    folder = tmp_path_factory.mktemp("msrun")
    script = folder / "script.py"
    script.write_text("from tests.helpers.several import main\nmain()\n")
    scripts = {
        "steps": ("tests.helpers.ranks", [folder / "steps.json", "0"]),
        "train": ("train", runs.arguments(images, folder / "out", "--distribute", "True", "--epoch_size", "1")),
    }

    def start(_, module, jobs):
        return run(*msrun(folder / "log"), script, jobs)

    return Job(folder, dict(zip(scripts, several(start, folder / "jobs", scripts.values()))))


def steps_of(job):
    return json.loads((job.folder / "steps.json").read_text())


def assert_ranks_agree(result):
    assert result["size"] == 2
    np.testing.assert_allclose(result["spread"], 0, atol=1e-6)
    assert result["count"] == 2 * 100_000_001 + 1
    assert result["mean"] == [1.5, -3.0]


@pytest.mark.process
def test_two_ranks_follow_one_rank_on_the_whole_batch(one_rank, two_ranks):
    found = steps_of(two_ranks)
    for mode, two in found.items():
        one = one_rank[mode]
        assert one["size"] == 1
        assert_ranks_agree(two)
        # The loss is a message, the gradients of six parameters go through shared memory together.
        assert (one["messages"], two["messages"]) == (([0, 0], [1, 1]) if mode == "0" else (None, None))
        assert two["own"] == one["own"]
        assert one["losses"][0] != pytest.approx(one["losses"][-1], abs=1e-2)
        np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-6, err_msg=f"mode {mode}")
    assert list(found) == ["0", "1"]


@pytest.mark.process
def test_msrun_does_the_same(one_rank, two_workers):
    two = steps_of(two_workers)["0"]
    assert_ranks_agree(two)
    np.testing.assert_allclose(two["losses"], one_rank["0"]["losses"], rtol=0, atol=1e-6)


def train_arguments(data, output, *more):
    return [*common(data), "--ckpt_save_dir", str(output), "--opt", "momentum", "--lr", "0.001", "--val_while_train",
            "True", "--log_interval", "1", "--distribute", "True", *more]  # fmt: skip


@pytest.mark.process
def test_train_validates_every_image_once_and_only_rank_0_writes(two_ranks):
    status, told, error = two_ranks.done["train"]
    assert status == [0, 0], error
    assert "on 7 images" in told[0]
    assert "".join(told).count("best checkpoint") == 1
    output = two_ranks.folder / "out"
    rows = (output / "results.csv").read_text().splitlines()
    assert len(rows) == 3
    assert not [p for p in output.iterdir() if "partial" in p.name]


@pytest.mark.process
def test_two_ranks_report_what_one_does_and_name_an_image_that_only_one_met(two_ranks, tmp_path, monkeypatch, capsys):
    folder = two_ranks.folder
    weights = ["--ckpt_path", str(folder / "net.ckpt"), "--report_dir", str(tmp_path)]
    status, _, error = call("validate", [*common(folder / "data"), *weights], monkeypatch, capsys)
    assert status == 0, error
    status, told, error = two_ranks.done["validate"]
    assert status == [0, 0], error
    assert "on 7 images" in told[0]
    one, two = ((path / "net" / "predictions.csv").read_text() for path in (tmp_path, folder / "two"))
    assert one == two
    status, _, error = two_ranks.done["bad"]
    assert f"error: cannot decode image {folder / 'bad' / 'val' / 'a' / '1.png'}" in "".join(error)
    assert status == [2, 2]


@pytest.mark.process
def test_a_dead_rank_ends_the_job_and_leaves_a_whole_checkpoint(tmp_path, monkeypatch, capsys, caplog):
    data = image_folder(tmp_path / "data")
    arguments = train_arguments(data, tmp_path / "out", "--epoch_size", "100000", "--val_while_train", "False")
    command = [*TWO_RANKS, "-m", "tests.helpers.tiny", "train", *arguments]
    log = open(tmp_path / "log", "w")  # noqa: SIM115, it outlives this line
    job = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        last = tmp_path / "out" / "tiny_last.ckpt"
        deadline = time.time() + PATIENCE
        while not last.exists():
            assert time.time() < deadline and job.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
        ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if "tests.helpers.tiny" in p.cmdline()]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        assert job.wait(timeout=PATIENCE) != 0
        psutil.wait_procs(ranks, timeout=PATIENCE)
        assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    finally:
        job.kill()
        log.close()
    caplog.set_level("INFO")
    status, _, error = call("validate", [*common(data), "--ckpt_path", str(last)], monkeypatch, capsys)
    assert status == 0, error
    assert "on 7 images" in caplog.text


def tiny(images, output, *more):
    arguments = runs.arguments(images, output, "--distribute", "True", *more)
    return [*TWO_RANKS, "-m", "tests.helpers.tiny", "train", *arguments]


@contextmanager
def job_that_printed(line, command, log):
    """A job, and its two ranks; nothing of it outlives the block."""
    with open(log, "w") as file:
        job = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file)
    try:
        deadline = time.time() + PATIENCE
        while line not in log.read_text():
            assert time.time() < deadline and job.poll() is None, log.read_text()[-2000:]
            time.sleep(0.05)
        ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if "tests.helpers.tiny" in p.cmdline()]
        assert len(ranks) == 2
        yield job, ranks
    finally:
        left = psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []
        for process in (job, *left):
            process.kill()


@pytest.mark.process
def test_a_signal_to_one_rank_stops_both_at_the_same_step(images, tmp_path):
    command = tiny(images, tmp_path / "out", "--epoch_size", "100000", "--val_while_train", "False")
    with job_that_printed("epoch 1/100000 step 3/3", command, tmp_path / "log") as (job, ranks):
        ranks[1].send_signal(signal.SIGTERM)
        assert job.wait(timeout=PATIENCE) == 143
    said = re.findall(r"stopped by SIGTERM after step (\d) of 3 of epoch (\d+)", (tmp_path / "log").read_text())
    assert len(said) == 1
    for rank in (0, 1):
        assert runs.states(tmp_path / "out", rank)[-1] == (int(said[0][1]), int(said[0][0]))


@pytest.mark.slow
@pytest.mark.process
def test_two_ranks_killed_and_resumed_end_as_two_that_were_not(images, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    done = run(*tiny(images, whole))
    assert done.returncode == 0, done.stderr[-2000:]
    with job_that_printed("epoch 2/4 step 1/", tiny(images, output), tmp_path / "log") as (job, ranks):
        time.sleep(np.random.default_rng().random() * 0.1)
        for process in (*ranks, job):
            process.kill()
        job.wait()
    epoch, step = max(set(runs.states(output, 0)) & set(runs.states(output, 1)))  # the newest that both have
    done = run(*tiny(images, output, "--resume", "auto"))
    assert done.returncode == 0, done.stderr[-2000:]
    reached = f"{epoch - 1} epochs" + (f" and {step} steps" if step else "")
    assert re.findall("^resuming the run of .* after (.*)$", done.stdout, re.MULTILINE) == [reached]
    for rank in (0, 1):
        runs.assert_same_run(output, whole, rank)


@pytest.mark.process
def test_msrun_trains_and_tells_its_ranks_apart(two_workers):
    status, told, error = two_workers.done["train"]
    assert status == [0, 0], error
    assert "".join(told).count("best checkpoint") == 1
    assert "on 24 images" in told[0]
    assert len(runs.rows(two_workers.folder / "out")) == 1
    assert runs.states(two_workers.folder / "out", 1) == runs.states(two_workers.folder / "out", 0)


def test_tensors_of_one_type_travel_in_buckets(eager, monkeypatch):
    sent = []
    monkeypatch.setattr(distributed.ops, "AllReduce", lambda _: lambda x: sent.append((x.dtype, x.shape)) or 2 * x)
    rng = np.random.default_rng(0)
    kinds = {(3, 4): "f4", (5,): "f2", (2, 3): "f2", (100,): "f4", (): "f4", (7,): "f4", (25,): "f4"}
    values = [np.asarray(rng.standard_normal(shape), kind) for shape, kind in kinds.items()]
    means = distributed.AllReduceMean(distributed.World(0, 2), bucket=100)(tuple(map(ms.Tensor, values)))
    single, half = ms.float32, ms.float16
    assert sent == [(single, (3, 4)), (half, (11,)), (single, (100,)), (single, (8,)), (single, (25,))]
    for mean, value in zip(means, values):
        np.testing.assert_array_equal(mean.asnumpy(), value, strict=True)


@pytest.mark.parametrize("target", ["CPU", "Ascend"])
def test_batch_normalisation_is_synchronized_where_mindspore_can(monkeypatch, target):
    monkeypatch.setattr(backend, "device_target", lambda: target)
    monkeypatch.setattr(distributed, "device_target", lambda: target)
    monkeypatch.setattr(nn, "SyncBatchNorm", type("Sync", (nn.BatchNorm2d,), {}))
    network = nn.SequentialCell(nn.Conv2d(3, 4, 1), nn.SequentialCell(nn.BatchNorm2d(4, eps=1e-3, momentum=0.7)))
    before = list(network.get_parameters())
    if target == "CPU":
        with pytest.raises(InputError, match="on Ascend, not on CPU: leave sync_bn out"):
            distributed.synchronize_batch_norm(network, distributed.World(0, 2))
        return
    distributed.synchronize_batch_norm(network, distributed.World(0, 1))
    assert type(network[1][0]) is nn.BatchNorm2d
    distributed.synchronize_batch_norm(network, distributed.World(0, 2))
    norm = network[1][0]
    assert type(norm) is nn.SyncBatchNorm
    assert (norm.num_features, norm.eps) == (4, 1e-3)
    assert 1 - norm.momentum == pytest.approx(0.7)
    assert {id(p) for p in network.get_parameters()} == {id(p) for p in before}
    assert {p.name for p in network.get_parameters()} == {p.name for p in before}

"""Runs of train.py with the tiny network, their states, and disks that are full."""

import csv
import errno
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import train
from mindcv_models import process
from mindcv_models.data.loader import Loader
from tests.helpers import tiny  # noqa: F401, it registers the network

ROOT = Path(__file__).parents[2]
STEPS, EPOCHS = 6, 4  # 24 images in batches of 4
# Everything that has a state: moments, moving average, dynamic loss scale, accumulation across epochs, and all that is
# random: order, augmentation, mixing, stochastic depth.
OPTIONS = [
    "--model", "tiny", "--image_resize", "32", "--batch_size", "4", "--num_parallel_workers", "1", "--epoch_size",
    str(EPOCHS), "--opt", "adamw", "--lr", "0.01", "--warmup_epochs", "1", "--decay_epochs", "3", "--ema", "True",
    "--ema_decay", "0.9", "--loss_scale_type", "dynamic", "--loss_scale", "16", "--clip_grad", "True",
    "--gradient_accumulation_steps", "4", "--auto_augment", "randaug-m9-mstd0.5-inc1", "--re_prob", "0.5", "--mixup",
    "0.8", "--drop_path_rate", "0.3", "--val_while_train", "True", "--log_interval", "1", "--save_every", "2",
    "--keep_checkpoint_max", "2",
]  # fmt: skip


def arguments(images, output, *more):
    return [*OPTIONS, "--data_dir", str(images), "--ckpt_save_dir", str(output), *more]


def call(images, output, *more):
    """Exit status of train.py, run in this process."""
    argv, sys.argv = sys.argv, ["train.py", *arguments(images, output, *more)]
    try:
        with pytest.raises(SystemExit) as left:
            process.run(train.main)
    finally:
        sys.argv = argv
    return left.value.code


def states(output, rank=0):
    """Names of states, the oldest first: epoch under way, its steps that are done."""
    names = [p.name.split("-")[1:3] for p in (output / "state").glob(f"*-rank{rank}.npz")]
    return sorted((int(epoch), int(step)) for epoch, step in names)


def arrays(output, rank=0):
    newest = max((output / "state").glob(f"*-rank{rank}.npz"), key=lambda p: [int(n) for n in p.name.split("-")[:3]])
    with np.load(newest) as members:
        return {name: members[name] for name in members if name != "facts"}


def rows(output):
    with open(output / "results.csv") as file:
        timings = ("seconds", "images_per_second")
        return [{name: v for name, v in row.items() if name not in timings} for row in csv.DictReader(file)]


def assert_same_run(output, whole, rank=0):
    own, expected = arrays(output, rank), arrays(whole, rank)
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        assert own[name].tobytes() == value.tobytes(), name
    if rank == 0:
        assert len(own) > 30
        assert rows(output) == rows(whole)
        names = [p.name for p in output.glob("*.ckpt")]
        assert sorted(names) == sorted(p.name for p in whole.glob("*.ckpt"))
        for name in names:
            assert (output / name).read_bytes() == (whole / name).read_bytes(), name


@contextmanager
def small_disk(folder, size):
    """A full-size file system of its own, or where mounting is not allowed a limit on the size of files."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    if mounted == 0:
        try:
            yield lambda: fill(folder / "ballast", size), lambda: (folder / "ballast").unlink()
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1])),
               lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(path, size):
    with open(path, "wb", buffering=0) as file:
        try:
            for _ in range(0, size, 512):
                file.write(bytes(512))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def at_step(monkeypatch, epoch, step, change):
    """Let ``change`` loose on the training batch of one step: it gets and returns the images."""
    in_training(monkeypatch, lambda images, *at: change(images) if at == (epoch, step) else images)


@contextmanager
def killed_copy(output, copy, epoch, step):
    """Copy the training run in ``output`` to ``copy`` before it takes a step: what it would leave if killed there."""

    def keep(images):
        shutil.copytree(output, copy, dirs_exist_ok=True)
        return images

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, epoch, step, keep)
        yield


def in_training(monkeypatch, change):
    """Let ``change`` loose on every training batch: it gets images, epoch and step, and returns the images."""
    original = Loader.epoch

    def epoch_with_change(self, number=1, start=0):
        for step, (images, *rest) in enumerate(original(self, number, start), start):
            training = self.last != "pad"
            yield (change(images, number, step) if training else images), *rest

    monkeypatch.setattr(Loader, "epoch", epoch_with_change)

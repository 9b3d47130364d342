"""Detectors that compile in seconds: ``retinanet`` over ``tiny_features``, ``mask_rcnn`` over ``tiny_pyramid``.

Run as a module, it is the script that its first argument names.
"""

import contextlib
import importlib
import io
import sys

import mindspore as ms
import pytest
from mindcv.models.registry import register_model
from mindspore import nn

import train
import validate
from mindcv_models import backend, process
from mindcv_models.data.scenes import write_scenes
from tests.helpers import runs
from tests.helpers.launch import TWO_RANKS, run

# What every script needs to build it.
NETWORK = ["--model", "retinanet", "--backbone", "tiny_features", "--channels", "8", "--convs", "1"]
MASK_NETWORK = ["--model", "mask_rcnn", "--backbone", "tiny_pyramid", "--channels", "8", "--convs", "1"]
IMAGES = ["--img_scale", "96", "96", "--anchor_scale", "2", "--num_parallel_workers", "1"]
# What a run of two epochs of three steps needs besides a network, a learning rate, data and a folder.
TWO_EPOCHS = [
    *IMAGES, "--dataset", "digits_scenes", "--batch_size", "4", "--epoch_size", "2", "--opt", "adamw",
    "--warmup_epochs", "0", "--val_while_train", "True", "--log_interval", "1", "--save_every", "2",
    "--score_threshold", "0.001",
]  # fmt: skip


class TinyFeatures(nn.Cell):
    """A stem of stride 4 and three stages that halve.

    It turns fused kernels on for the process, so that a run here rounds as one after other tests does.
    """

    def __init__(self):
        super().__init__()
        backend.fuse_elementwise()
        self.stem = nn.SequentialCell(nn.Conv2d(3, 4, 4, 4, pad_mode="valid"), nn.BatchNorm2d(4), nn.ReLU())
        self.stage1 = nn.SequentialCell(nn.Conv2d(4, 8, 3, 2, pad_mode="pad", padding=1), nn.ReLU())
        self.stage2 = nn.SequentialCell(nn.Conv2d(8, 8, 3, 2, pad_mode="pad", padding=1), nn.ReLU())
        self.stage3 = nn.SequentialCell(nn.Conv2d(8, 8, 3, 2, pad_mode="pad", padding=1), nn.ReLU())
        self.feature_info = [{"chs": 8, "reduction": 8 * 2**k, "name": f"stage{k + 1}"} for k in range(3)]


class TinyPyramid(TinyFeatures):
    """The same, whose stem gives a map too."""

    def __init__(self):
        super().__init__()
        self.feature_info.insert(0, {"chs": 4, "reduction": 4, "name": "stem"})


@register_model
def tiny_pyramid(num_classes=2, pretrained=False, in_channels=3):
    return TinyPyramid()


@register_model
def tiny_features(num_classes=2, pretrained=False, in_channels=3):
    return TinyFeatures()


def scenes(folder, counts=(12, 6)):
    """A few scenes of digits."""
    return write_scenes(folder, counts)


def call(main, *arguments):
    """Exit status and standard output of a script's ``main``, run in this process."""
    argv, sys.argv = sys.argv, ["script.py", *map(str, arguments)]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
            process.run(main)
    finally:
        sys.argv = argv
    return left.value.code, out.getvalue()


def finished_run(arguments, data, folder, killed):
    """The folder of a run in graph mode; ``killed`` has what it would leave if killed in its second epoch."""
    ms.set_context(mode=ms.GRAPH_MODE)
    with runs.killed_copy(folder, killed, epoch=2, step=1):
        code, _ = call(train.main, *arguments, "--data_dir", data, "--ckpt_save_dir", folder)
    assert code == 0
    return folder


def resumed(arguments, data, killed):
    """The folder of a killed run, finished. It does not validate, which changes no weight."""
    ms.set_context(mode=ms.GRAPH_MODE)
    assert runs.states(killed)[-1] == (2, 1)
    more = ["--resume", "auto", "--val_while_train", "False"]
    code, _ = call(train.main, *arguments, *more, "--data_dir", data, "--ckpt_save_dir", killed)
    assert code == 0
    return killed


def _search(trained, checkpoint, folder):
    return ["--config", trained / "config.yaml", "--ckpt_path", checkpoint, "--save_results",
            folder / "found.json"]  # fmt: skip


def found_by_one(trained, checkpoint, folder):
    """``folder`` with what validation finds with a checkpoint, ``found.json`` in COCO's format, and ``report/``."""
    ms.set_context(mode=ms.GRAPH_MODE)
    words = [*_search(trained, checkpoint, folder), "--distribute", "False", "--report_dir", folder / "report"]
    assert call(validate.main, *words)[0] == 0
    return folder


def found_by_two_ranks(trained, checkpoint, folder):
    """``folder`` with what two ranks find, ``found.json``."""
    words = [*_search(trained, checkpoint, folder), "--distribute", "True"]
    done = run(*TWO_RANKS, "-m", "tests.helpers.tiny_detector", "validate", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def refused_in_one_line(code, error, message):
    """Whether a script ended with status 2 and one line of error that has ``message``."""
    lines = [line for line in error.splitlines() if line.startswith("error")]
    return code == 2 and len(lines) == 1 and message in error


if __name__ == "__main__":
    process.run(importlib.import_module(sys.argv.pop(1)).main)

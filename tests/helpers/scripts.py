"""Scripts, run in this process, and what they are given."""

import csv
import importlib
import sys

import mindspore as ms
import pytest

from mindcv_models import create_model, process
from mindcv_models.checkpoint import save_checkpoint
from tests.helpers import tiny  # noqa: F401, it registers the network

# A recipe of MindCV's, as MindCV writes it: ResNet-18 for eight Ascend devices.
MINDCV_RECIPE = """
# system config
mode: 0
distribute: True
num_parallel_workers: 8
# dataset config
dataset: 'imagenet'
data_dir: ''
shuffle: True
dataset_download: False
batch_size: 32
drop_remainder: True
# Augmentation config
image_resize: 224
scale: [0.08, 1.0]
ratio: [0.75, 1.333]
hflip: 0.5
interpolation: 'bilinear'
crop_pct: 0.875
# model config
model: 'resnet18'
num_classes: 1000
pretrained: False
ckpt_path: ''
keep_checkpoint_max: 30
ckpt_save_dir: ''
epoch_size: 120
dataset_sink_mode: True
amp_level: 'O2'
# loss config
loss: 'CE'
label_smoothing: 0.1
# lr scheduler config
scheduler: 'cosine_decay'
min_lr: 0.0
lr: 0.1
warmup_epochs: 0
decay_epochs: 120
# optimizer config
opt: 'momentum'
filter_bias_and_bn: True
momentum: 0.9
weight_decay: 0.0001
loss_scale: 1024
use_nesterov: False
"""


def common(data):
    """What training and validation have in common."""
    return ["--data_dir", str(data), "--model", "tiny", "--image_resize", "32", "--batch_size", "4",
            "--num_parallel_workers", "1"]  # fmt: skip


def train_arguments(data, output, *more):
    return [*common(data), "--ckpt_save_dir", str(output), "--opt", "momentum", "--lr", "0.001", "--epoch_size", "2",
            "--warmup_epochs", "0", "--decay_epochs", "2", "--val_while_train", "True", *more]  # fmt: skip


def call(script, arguments, monkeypatch, capsys):
    """Exit status, standard output and standard error of a script, run in this process."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as left:
        process.run(importlib.import_module(script).main)
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def checkpoint(path, classes=2, seed=0):
    ms.set_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(create_model("tiny", num_classes=classes).get_parameters(), path)
    return str(path)


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))

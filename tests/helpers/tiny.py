"""A network that compiles in a second, known to the scripts as ``tiny``.

python -m tests.helpers.tiny SCRIPT [OPTIONS]        SCRIPT is train or validate

``DIE_IN_SAVE=3`` in the environment kills the process, as kill -9 does, while it saves its third state.
"""

import importlib
import os
import signal
import sys

os.environ.setdefault("GLOG_v", "3")

from mindcv.models.layers.drop_path import DropPath
from mindcv.models.registry import register_model
from mindspore import nn

from mindcv_models import process
from mindcv_models.layers import GELU
from mindcv_models.training import state_files

default_cfgs = {"tiny": {"classifier": "classifier"}}


class Tiny(nn.Cell):
    """Convolution, batch normalisation, stochastic depth and a classifier.

    GELU turns fused kernels on for the process, so that a run here rounds as one after other tests does.
    """

    def __init__(self, num_classes, drop_path_rate):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4, pad_mode="valid")
        self.norm = nn.BatchNorm2d(8)
        self.act = GELU()
        self.branch = nn.Conv2d(8, 8, 3, pad_mode="same")
        self.drop_path = DropPath(drop_path_rate)
        self.classifier = nn.Dense(8, num_classes)

    def construct(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        x = self.norm(self.stem(x))
        return x + self.drop_path(self.branch(self.act(x)))

    def forward_head(self, x):
        return self.classifier(x.mean((2, 3)))


@register_model
def tiny(num_classes=2, drop_path_rate=0.3, pretrained=False, in_channels=3):
    return Tiny(num_classes, drop_path_rate)


def die_in_save(count):
    """Kill this process when it has written half of what makes its ``count``-th state."""
    write, calls = state_files._write, []

    def half(path, *rest):
        write(path, *rest)
        calls.append(path)
        if len(calls) == count:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    state_files._write = half


if __name__ == "__main__":
    if "DIE_IN_SAVE" in os.environ:
        die_in_save(int(os.environ["DIE_IN_SAVE"]))
    process.run(importlib.import_module(sys.argv.pop(1)).main)

"""Detectors that compile in seconds: ``retinanet`` over ``tiny_features``, ``mask_rcnn`` over ``tiny_pyramid``.

Run as a module, it is the script that its first argument names.
"""

import contextlib
import importlib
import io
import sys

import pytest
from mindcv.models.registry import register_model
from mindspore import nn

from mindcv_models import process
from mindcv_models.data.scenes import write_scenes

# What every script needs to build it.
NETWORK = ["--model", "retinanet", "--backbone", "tiny_features", "--channels", "8", "--convs", "1"]
MASK_NETWORK = ["--model", "mask_rcnn", "--backbone", "tiny_pyramid", "--channels", "8", "--convs", "1"]
IMAGES = ["--img_scale", "96", "96", "--anchor_scale", "2", "--num_parallel_workers", "1"]


class TinyFeatures(nn.Cell):
    """A stem of stride 4 and three stages that halve."""

    def __init__(self):
        super().__init__()
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


if __name__ == "__main__":
    process.run(importlib.import_module(sys.argv.pop(1)).main)

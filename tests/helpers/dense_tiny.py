"""A backbone that compiles in seconds, known to the scripts as ``tiny_maps``; run as a module, this is a script.

python -m tests.helpers.dense_tiny validate ...    is validate.py
"""

import importlib
import os
import sys

os.environ.setdefault("GLOG_v", "3")

import pytest
from mindcv.models.registry import register_model
from mindspore import nn

from mindcv_models import process

WIDTHS = (6, 8, 10, 12)


class TinyMaps(nn.Cell):
    """Maps of strides 4 to 32, a convolution each; batch normalisation in the first."""

    def __init__(self, in_channels):
        super().__init__()
        self.feature_info = [
            {"chs": chs, "reduction": 4 * 2**k, "name": f"stage{k}"} for k, chs in enumerate(WIDTHS)
        ]  # fmt: skip
        self.stage0 = nn.SequentialCell(
            nn.Conv2d(in_channels, WIDTHS[0], 4, 4, pad_mode="valid"), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        for k in range(1, 4):
            setattr(self, f"stage{k}", nn.Conv2d(WIDTHS[k - 1], WIDTHS[k], 2, 2, pad_mode="valid"))


@register_model
def tiny_maps(num_classes=1, pretrained=False, in_channels=3, **_):
    return TinyMaps(in_channels)


def call(script, *arguments):
    """The exit status of a script, run in this process."""
    main = importlib.import_module(script).main
    argv, sys.argv = sys.argv, [f"{script}.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            process.run(main)
    finally:
        sys.argv = argv
    return left.value.code


if __name__ == "__main__":
    name = sys.argv.pop(1)
    process.run(importlib.import_module(name).main)

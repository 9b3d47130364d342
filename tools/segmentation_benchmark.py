"""Measure what a segmenter costs beside its network: its joints, label maps, data and the first call of a step.

python tools/segmentation_benchmark.py
python tools/segmentation_benchmark.py --backbone litv2_s --size 512 512 --parts joints first_call

`joints`: the forward pass against backbone, neck and head as graphs of their own, in turns. `labels`: from logits to
the label map of a picture of 683 x 512, 150 classes. `data`: decoding a picture and its labels, resizing, cropping,
flipping, distorting and normalising, against a plain loop of Pillow and NumPy that does the same. `first_call`: of a
training step at 320 x 320, against the backbone's classifier's.
"""

import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from PIL import Image

from mindcv_models import create_model
from mindcv_models.options import option, parse
from mindcv_models.process import run
from mindcv_models.segmentation.folders import LabelledPictures, LabelMap
from mindcv_models.segmentation.inference import Inference, InferenceSettings, View
from mindcv_models.segmentation.objective import SegmentationObjective
from mindcv_models.segmentation.transforms import TrainTransform
from tools import dense
from tools.dense import MEAN, STD, Frame, compare_data, compare_first_calls
from tools.turns import medians

logger = logging.getLogger("segmentation_benchmark")

PARTS = ("joints", "labels", "data", "first_call")


@dataclass
class BenchmarkOptions(Frame):
    """What is measured."""

    parts: Tuple[str, ...] = option(PARTS, "what to measure", example="joints data")


def main():
    ms.set_context(mode=ms.GRAPH_MODE)
    options = parse(BenchmarkOptions, __doc__)
    for part in options.parts:
        globals()[f"measure_{part}"](options)


def measure_joints(options):
    dense.measure_joints(options, "semantic_fpn", "decode_head")


def measure_labels(options):
    logits = np.random.default_rng(0).standard_normal((150, 128, 171)).astype(np.float32)
    view = View(np.zeros((3, 512, 684), np.float32), (512, 683), False)
    inference = Inference(None, InferenceSettings((2048, 512), MEAN, STD))
    found = medians(options.rounds, ours=lambda: inference.label_map([view], [logits], (512, 683)))
    logger.info("labels, 150 classes at 683 x 512: %.0f ms a picture", 1e3 * found["ours"])


def measure_data(options, count=16):
    transform = TrainTransform((512, 512), (2048, 512), (0.5, 2.0), 0.5, True, MEAN, STD)
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder), count)
        compare_data(
            options, count,
            lambda k: transform(*data.read(k), np.random.default_rng(k)), lambda k: plain_sample(data, k),
        )  # fmt: skip


def photographs(folder, count) -> LabelledPictures:
    """JPEG files of 683 x 512, and label maps of 150 classes in blocks."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for k in range(count):
        Image.fromarray(load_sample_images().images[k % 2]).resize((683, 512)).save(folder / f"{k}.jpg", quality=90)
        blocks = np.kron(rng.integers(0, 151, (8, 11)), np.ones((64, 64), int))[:512, :683]
        Image.fromarray(blocks.astype(np.uint8)).save(folder / f"{k}.png")
    names = [tuple(str(folder / f"{k}.{suffix}") for k in range(count)) for suffix in ("jpg", "png")]
    return LabelledPictures(*names, LabelMap(150, 1))


def plain_sample(data, k):
    """What a reader would write at once: Pillow and NumPy, with the same draws at random."""
    rng = np.random.default_rng(k)
    picture, labels = Image.open(data.pictures[k]).convert("RGB"), Image.open(data.labels[k])
    ratio = rng.uniform(0.5, 2.0)
    factor = min(2048 * ratio / max(picture.size), 512 * ratio / min(picture.size))
    size = tuple(int(side * factor + 0.5) for side in picture.size)
    pixels = np.asarray(picture.resize(size, Image.BILINEAR))
    classes = np.asarray(labels.resize(size, Image.NEAREST)).astype(np.int32) - 1
    for _ in range(10):
        top, left = (int(rng.integers(max(side - 512, 0) + 1)) for side in classes.shape)
        values, counts = np.unique(classes[top : top + 512, left : left + 512], return_counts=True)
        counts = counts[values >= 0]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
    pixels, classes = (array[top : top + 512, left : left + 512] for array in (pixels, classes))
    if rng.random() < 0.5:
        pixels, classes = pixels[:, ::-1], classes[:, ::-1]
    pixels = plainly_distorted(pixels, rng)
    image, target = np.zeros((3, 512, 512), np.float32), np.full((512, 512), -1, np.int32)
    image[:, : pixels.shape[0], : pixels.shape[1]] = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    target[: classes.shape[0], : classes.shape[1]] = classes
    return image, target


def plainly_distorted(pixels, rng):
    if rng.random() < 0.5:
        pixels = np.clip(pixels + rng.uniform(-32, 32), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        pixels = np.clip(pixels * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)
    for channel in (1, 0):
        if rng.random() < 0.5:
            hsv = np.array(Image.fromarray(pixels).convert("HSV"))
            amount = rng.uniform(0.5, 1.5)
            changed = hsv[..., 1] * amount if channel else (hsv[..., 0] + 255 * (amount - 1) / 10) % 256
            hsv[..., channel] = np.clip(changed, 0, 255).astype(np.uint8)
            pixels = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return pixels


def measure_first_call(options, side=320):
    rng = np.random.default_rng(0)
    images = Tensor(rng.standard_normal((2, 3, side, side), np.float32))
    classifier = create_model(options.backbone, num_classes=150)
    segmenter = create_model("semantic_fpn", backbone=options.backbone)
    objective = SegmentationObjective(segmenter).set_train()
    labels = Tensor(rng.integers(0, 150, (2, side, side)).astype(np.int32))
    compare_first_calls(
        options, side,
        segmenter=(lambda x, y: objective(x, y)[0], segmenter, (images, labels)),
        classifier=(lambda x, y: ops.cross_entropy(classifier(x), y), classifier, (images, Tensor([0, 1], ms.int32))),
    )  # fmt: skip


if __name__ == "__main__":
    run(main)

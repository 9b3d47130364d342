"""Measure what a detector costs beside its network: its joints, decoding, data and the first call of a training step.

python tools/detection_benchmark.py
python tools/detection_benchmark.py --backbone litv2_s --size 320 480 --parts joints first_call

`joints`: the detector's forward pass against backbone, neck and head as graphs of their own, in turns. `decoding`:
from raw outputs to at most 100 detections, at 800 x 1344. `data`: decoding a file, resizing, flipping, padding and
assigning anchors, against a plain loop of Pillow and NumPy that does the same. `first_call`: of a training step at
320 x 320, against the backbone's classifier's.
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
from mindcv_models.detection.anchors import RETINANET
from mindcv_models.detection.coco import Annotated, CocoSet
from mindcv_models.detection.losses import retinanet_losses
from mindcv_models.detection.predict import detect
from mindcv_models.detection.transforms import Buckets, Preparation, TrainTransform
from mindcv_models.options import option, parse
from mindcv_models.process import run
from tools import dense
from tools.dense import MEAN, STD, Frame, compare_data, compare_first_calls
from tools.turns import medians

logger = logging.getLogger("detection_benchmark")

PARTS = ("joints", "decoding", "data", "first_call")


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
    dense.measure_joints(options, "retinanet", "bbox_head")


def measure_decoding(options):
    """Outputs as a trained network gives them: about 600 scores above 0.05 around 100 objects."""
    rng = np.random.default_rng(0)
    sizes = RETINANET.sizes(800, 1344)
    anchors, counts = RETINANET.all(sizes), RETINANET.counts(sizes)
    logits = rng.normal(-7, 0.8, (len(anchors), 80)).astype(np.float32)
    places = rng.integers(len(anchors), size=100)[:, None] + np.arange(6)
    logits[places % len(anchors), rng.integers(80, size=(100, 1))] = rng.normal(0, 1.5, places.shape)
    deltas = rng.normal(0, 0.3, (len(anchors), 4)).astype(np.float32)
    found = medians(5 * options.rounds, ours=lambda: detect(logits, deltas, anchors, counts, (800, 1333), (2, 2)))
    kept = len(detect(logits, deltas, anchors, counts, (800, 1333), (2, 2)).boxes)
    logger.info("decoding at 800 x 1344: %.1f ms an image, %d detections", 1e3 * found["ours"], kept)


def measure_data(options, count=32, scale=(1333, 800)):
    buckets = Buckets(scale)
    transform = TrainTransform(Preparation(scale, MEAN, STD), buckets, 80)
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder), count)
        compare_data(
            options, count,
            lambda k: transform(data.read(k), np.random.default_rng(k)),
            lambda k: plain_sample(data, k, buckets.shapes[1]),
        )  # fmt: skip


def photographs(folder, count) -> CocoSet:
    """JPEG files of 640 x 480 with seven objects each, as COCO has on average."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    images = []
    for k in range(count):
        name = f"{k}.jpg"
        Image.fromarray(load_sample_images().images[k % 2]).resize((640, 480)).save(folder / name, quality=90)
        corners = rng.uniform([0, 0], [480, 360], (7, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 120, (7, 2))], 1).astype(np.float32)
        images.append(Annotated(k, name, 480, 640, boxes, rng.integers(80, size=7).astype(np.int32)))
    return CocoSet(folder / "none.json", folder, (), tuple(images))


def plain_sample(data, k, shape):
    """What a reader would write at once: Pillow, and NumPy over all anchors and boxes."""
    image, rng = data.images[k], np.random.default_rng(k)
    picture = Image.open(data.folder / image.file_name).convert("RGB")
    factor = min(1333 / max(picture.size), 800 / min(picture.size))
    width, height = (int(side * factor + 0.5) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.BILINEAR), np.float32)
    boxes = image.boxes * factor
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    padded = np.zeros((3, *shape), np.float32)
    padded[:, :height, :width] = ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)
    anchors = RETINANET.all(RETINANET.sizes(*shape))
    low = np.maximum(anchors[:, None, :2], boxes[None, :, :2])
    high = np.minimum(anchors[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (anchors, boxes)]
    overlaps = shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-6)
    best, which = overlaps.max(1), overlaps.argmax(1)
    labels = np.where(best < 0.4, 80, np.where(best >= 0.5, image.classes[which], -1))
    for g in range(len(boxes)):
        labels[overlaps[:, g] == overlaps[:, g].max()] = image.classes[g]
    sides, centres = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    own = boxes[which]
    deltas = np.concatenate(
        [((own[:, :2] + own[:, 2:]) / 2 - centres) / sides, np.log((own[:, 2:] - own[:, :2]) / sides)], 1
    )
    return padded, labels, np.where(((labels >= 0) & (labels < 80))[:, None], deltas, 0)


def measure_first_call(options, side=320):
    images = Tensor(np.random.default_rng(0).standard_normal((2, 3, side, side), np.float32))
    classifier = create_model(options.backbone, num_classes=80)
    detector = create_model("retinanet", backbone=options.backbone)
    anchors = sum(RETINANET.counts(RETINANET.sizes(side, side)))
    labels = np.full((2, anchors), 80, np.int32)
    labels[:, ::50] = 3

    def detection(x, y, targets):
        cls, box = retinanet_losses(*detector(x), y, targets)
        return cls + box

    compare_first_calls(
        options, side,
        detector=(detection, detector, (images, Tensor(labels), Tensor(np.zeros((2, anchors, 4), np.float32)))),
        classifier=(lambda x, y: ops.cross_entropy(classifier(x), y), classifier, (images, Tensor([1, 2], ms.int32))),
    )  # fmt: skip


if __name__ == "__main__":
    run(main)

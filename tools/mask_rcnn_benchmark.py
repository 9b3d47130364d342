"""Measure what Mask R-CNN costs: its steps and predictions beside RetinaNet's, and the parts that it alone has.

python tools/mask_rcnn_benchmark.py
python tools/mask_rcnn_benchmark.py --backbone fastvit_t8 --parts inference shares

`step`: a training step at 320 x 320, batch 2, against RetinaNet's, in turns. `inference`: from images to boxes and
masks at 320 x 320, against RetinaNet's boxes; an untrained network finds as many objects as it may, so two figures are
given: with masks for 100 objects, and for 8. `shares`: time of RoIAlign, of the suppression within the graph, and of
pasting 100 masks. `masks`: time and memory of an image's packed masks at 800 x 1067, against full bitmaps.
"""

import logging
import os
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindcv_models import create_model
from mindcv_models.detection.masks import RunLengths, bytes_needed, pack
from mindcv_models.detection.paste import paste
from mindcv_models.detection.predict import Limits
from mindcv_models.detection.systems import system_of
from mindcv_models.layers import NMS, RoIAlign
from mindcv_models.options import Group, option, parse
from mindcv_models.process import run
from tools.turns import medians

logger = logging.getLogger("mask_rcnn_benchmark")

PARTS = ("step", "inference", "shares", "masks")
MODELS = ("retinanet", "mask_rcnn")
OPTIONS = SimpleNamespace(
    batch_size=2, in_channels=3, num_classes=80, anchor_scale=None, regions=1000, region_samples=512, hflip=0.5
)


@dataclass
class BenchmarkOptions(Group):
    """What is measured."""

    title = "Benchmark"

    parts: Tuple[str, ...] = option(PARTS, "what to measure", example="step shares")
    backbone: str = option("litv2_s", "the detectors' backbone")
    side: int = option(320, "height and width of the images of steps and inference", at_least=64)
    rounds: int = option(3, "rounds, each with all that are compared, after one that does not count", at_least=1)


def main():
    ms.set_context(mode=ms.GRAPH_MODE)
    options = parse(BenchmarkOptions, __doc__)
    for part in options.parts:
        globals()[f"measure_{part}"](options)


class Step(nn.Cell):
    """Losses, gradients by all parameters and an update, as one graph."""

    def __init__(self, objective):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.optimizer = nn.AdamWeightDecay(objective.network.trainable_params(), 1e-4)
        self.gradient = ms.value_and_grad(objective, None, self.optimizer.parameters, has_aux=True)
        self.set_train()

    def construct(self, *batch):
        (loss, _), gradients = self.gradient(*batch)
        return ms.ops.depend(loss, self.optimizer(gradients))


def measure_step(options):
    works = {}
    for model in MODELS:
        network = create_model(model, backbone=options.backbone, num_classes=80)
        batch = [Tensor(each) for each in system_of(model).example(OPTIONS, (options.side, options.side))]
        step = Step(system_of(model).objective(OPTIONS, network))
        works[model] = lambda step=step, batch=batch: step(*batch).asnumpy()
    report("training step, batch 2", options, medians(options.rounds, **works))


def measure_inference(options):
    images = np.random.default_rng(0).standard_normal((1, 3, options.side, options.side), np.float32)
    arguments = (images, np.full((1, 2), options.side, np.float32), np.ones((1, 2), np.float32), np.ones(1, bool))
    for most in (100, 8):
        works = {}
        for model in MODELS:
            network = create_model(model, backbone=options.backbone, num_classes=80).set_train(False)
            detector = system_of(model).validator.detector(network, Limits(score=0.0, per_image=most))
            works[model] = lambda detector=detector: detector(*arguments)
        report(f"inference of an image, {most} objects", options, medians(options.rounds, **works))


def report(what, options, seconds):
    logger.info(
        "%s at %d x %d, %s: Mask R-CNN %.0f ms, RetinaNet %.0f ms, ratio %.2f", what, options.side, options.side,
        options.backbone, 1e3 * seconds["mask_rcnn"], 1e3 * seconds["retinanet"],
        seconds["mask_rcnn"] / seconds["retinanet"],
    )  # fmt: skip


class Pooling(nn.Cell):
    """RoIAlign over four maps that are arguments."""

    def __init__(self, size):
        super().__init__()
        self.layer = RoIAlign(size)

    def construct(self, a, b, c, d, boxes):
        return self.layer((a, b, c, d), boxes)


def measure_shares(options):
    rng = np.random.default_rng(0)
    side = options.side
    maps = [Tensor(rng.standard_normal((1, 256, side // s, side // s), np.float32)) for s in (4, 8, 16, 32)]
    corner = rng.uniform(0, 0.7 * side, (1, 1000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 0.3 * side, (1, 1000, 2))], 2).astype(np.float32)
    seven, fourteen, nms = Pooling(7), Pooling(14), NMS(0.7)
    regions, few, many = Tensor(boxes), Tensor(boxes[:, :100]), Tensor(np.tile(boxes, (5, 1, 1)))
    logits = rng.normal(0, 3, (100, 28, 28)).astype(np.float32)
    found = medians(
        options.rounds,
        boxes=lambda: seven(*maps, regions).asnumpy(),
        masks=lambda: fourteen(*maps, few).asnumpy(),
        nms=lambda: nms(many).asnumpy(),
        paste=lambda: paste(logits, boxes[0, :100], (side, side)),
    )
    logger.info(
        "shares at %d x %d: RoIAlign of 1000 boxes %.0f ms, of 100 masks %.0f ms, suppression of 5 x 1000 regions "
        "%.0f ms, pasting 100 masks %.0f ms", side, side, *(1e3 * found[k] for k in ("boxes", "masks", "nms", "paste")),
    )  # fmt: skip


def measure_masks(options, objects=20):
    """Polygons of 40 points on an image of 480 x 640 that becomes 800 x 1067."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    polygons, boxes = [], []
    for _ in range(objects):
        centre, radius = rng.uniform([60, 60], [580, 420]), rng.uniform(15, 120, 2)
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        polygons.append([points.reshape(-1).tolist()])
        boxes.append([*points.min(0), *points.max(0)])
    boxes = np.clip(boxes, 0, [640, 480, 640, 480]).astype(np.float32)
    capacity = bytes_needed(boxes, (1067 / 640, 800 / 480))

    def packed():
        return pack([RunLengths.of(each, 480, 640) for each in polygons], boxes, (800, 1067), True, objects, capacity)

    def bitmaps():
        rows, columns = np.arange(800) * 480 // 800, np.arange(1067) * 640 // 1067
        masks = [RunLengths.of(each, 480, 640).bitmap()[rows][:, columns][:, ::-1] for each in polygons]
        full = np.zeros((objects, 800, 1344), np.uint8)
        full[:, :, :1067] = masks
        return full

    found = medians(options.rounds, packed=packed, bitmaps=bitmaps)
    logger.info(
        "masks of %d objects at 800 x 1067: packed %.1f ms, %.2f MB in the batch, %.1f MB at the most while made; "
        "full bitmaps %.1f ms, %.1f MB, %.1f MB", objects, 1e3 * found["packed"], capacity / 1e6, peak(packed),
        1e3 * found["bitmaps"], objects * 800 * 1344 / 1e6, peak(bitmaps),
    )  # fmt: skip


def peak(work) -> float:
    """MB that Python and NumPy hold at the most during ``work``."""
    tracemalloc.start()
    work()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size / 1e6


if __name__ == "__main__":
    run(main)

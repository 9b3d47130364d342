"""Measure what Mask R-CNN costs: its steps and predictions beside RetinaNet's, and the parts that it alone has.

python tools/mask_rcnn_benchmark.py
python tools/mask_rcnn_benchmark.py --backbone fastvit_t8 --parts inference shares --size 800 1344

`step`: a training step, batch 2, against RetinaNet's, in turns. `inference`: from an image to boxes and masks, against
RetinaNet's boxes, with masks for 100 objects and for 8, the number of COCO's images on average; scores are cut so that
600 candidates are left, for the networks are not trained. `shares`: the time of each stage of inference with 100
objects. `masks`: time and memory of an image's packed masks at 800 x 1067, against full bitmaps.
"""

import logging
import os
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindcv_models import create_model
from mindcv_models.detection.masks import RunLengths, bytes_needed, pack
from mindcv_models.detection.options import TrainOptions
from mindcv_models.detection.paste import detect_regions, softmax
from mindcv_models.detection.predict import Limits, sigmoid
from mindcv_models.detection.regions import Proposals
from mindcv_models.detection.systems import system_of
from mindcv_models.options import Group, option, parse
from mindcv_models.process import run
from tools.turns import Part, medians

logger = logging.getLogger("mask_rcnn_benchmark")

PARTS = ("step", "inference", "shares", "masks")
MODELS = ("retinanet", "mask_rcnn")


@dataclass
class BenchmarkOptions(Group):
    """What is measured."""

    title = "Benchmark"

    parts: Tuple[str, ...] = option(PARTS, "what to measure", example="step shares")
    backbone: str = option("litv2_s", "the detectors' backbone")
    size: Tuple[int, ...] = option((320, 320), "height and width of the images of steps and inference", at_least=64)
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
        training, system = TrainOptions(model=model, num_classes=80), system_of(model)
        batch = [Tensor(each) for each in system.example(training, options.size)]
        step = Step(system.objective(training, network))
        works[model] = lambda step=step, batch=batch: step(*batch).asnumpy()
    report("training step, batch 2", options, medians(options.rounds, **works))


def measure_inference(options):
    arguments = inputs(options)
    networks = {m: create_model(m, backbone=options.backbone, num_classes=80).set_train(False) for m in MODELS}
    for most in (100, 8):
        works = {}
        for model, network in networks.items():
            detector = detector_of(model, network, arguments, most)
            works[model] = lambda detector=detector: detector(*arguments)
        report(f"inference of an image, {most} objects", options, medians(options.rounds, **works))


def inputs(options):
    """What a detector takes: one image, its size, its factors, and that it is no padding."""
    images = np.random.default_rng(0).standard_normal((1, 3, *options.size), np.float32)
    return images, np.float32([options.size]), np.ones((1, 2), np.float32), np.ones(1, bool)


def detector_of(model, network, arguments, most):
    """A detector whose threshold lets as many candidates pass, 600, as a trained one has around 100 objects."""
    detector = system_of(model).validator.detector(network)
    images, sizes = (Tensor(each) for each in arguments[:2])
    if model == "mask_rcnn":
        scores = softmax(detector.first(images, sizes)[1].asnumpy()[0])[:, :-1]
    else:
        scores = sigmoid(network(images)[0].asnumpy())
    detector.limits = Limits(score=float(np.sort(scores, axis=None)[-600]), per_image=most)
    return detector


def report(what, options, seconds):
    logger.info(
        "%s at %d x %d, %s: Mask R-CNN %.0f ms, RetinaNet %.0f ms, ratio %.2f", what, *options.size, options.backbone,
        1e3 * seconds["mask_rcnn"], 1e3 * seconds["retinanet"], seconds["mask_rcnn"] / seconds["retinanet"],
    )  # fmt: skip


class Chosen(nn.Cell):
    """The choice of regions from the first stage's outputs of five levels, and from images' sizes."""

    def __init__(self, network, shapes):
        super().__init__(auto_prefix=False)
        self.proposals, self.shapes = Proposals(anchor_scale=network.anchor_scale), shapes

    def construct(self, a, b, c, d, e, f, g, h, i, j, sizes):
        return self.proposals((a, b, c, d, e), (f, g, h, i, j), sizes, self.shapes)


class Pooling(nn.Cell):
    """RoIAlign over four maps that are arguments, to rows of features."""

    def __init__(self, layer):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, a, b, c, d, boxes):
        pooled = self.layer((a, b, c, d), boxes)
        return pooled.reshape(-1, *pooled.shape[2:])


class OwnMasks(nn.Cell):
    """A mask head as inference uses it: each region's class alone."""

    def __init__(self, head):
        super().__init__(auto_prefix=False)
        self.head = head

    def construct(self, features, labels):
        return self.head.own(features, labels)


def measure_shares(options):
    """Every stage of an image's way from pixels to 100 masks, as a graph of its own, in turns with the whole."""
    height, width = options.size
    network = create_model("mask_rcnn", backbone=options.backbone, num_classes=80).set_train(False)
    arguments = inputs(options)
    detector = detector_of("mask_rcnn", network, arguments, 100)
    objects = detector(*arguments)[0]
    works = {"whole": lambda: detector(*arguments)}
    works |= stages(network, Tensor(arguments[0]), Tensor(arguments[1]), objects, detector.limits)
    works["pasting"] = lambda: objects.bitmaps((height, width))
    found = medians(options.rounds, **works)
    whole = found.pop("whole")
    logger.info("inference at %d x %d, %s: %.0f ms, of which", height, width, options.backbone, 1e3 * whole)
    for name, seconds in found.items():
        logger.info("    %-22s %6.1f ms  %4.1f %%", name, 1e3 * seconds, 100 * seconds / whole)


def stages(network, images, sizes, objects, limits):
    """The stages of one image's inference up to its masks, by name; each on what the one before gave."""
    backbone, neck, first = (Part(cell) for cell in (network.backbone, network.neck, network.rpn_head))
    inner = backbone(images)
    maps = neck(*inner)
    logits, deltas = first(*maps)
    choose = Chosen(network, tuple(x.shape[2:] for x in maps))
    regions = choose(*logits, *deltas, sizes)[0]
    head, few = network.roi_head, Tensor(objects.boxes[None])
    labels = Tensor(objects.labels.astype(np.int32))
    pool, pool_few = Pooling(head.box_features), Pooling(head.mask_features)
    features, few_features = pool(*maps[:4], regions), pool_few(*maps[:4], few)
    box_head, mask_head = Part(head.bbox_head), OwnMasks(head.mask_head)
    rows = [each.asnumpy() for each in (*box_head(features), regions[0])]
    calls = {
        "backbone": (backbone, [images]), "neck": (neck, inner),
        "first stage": (first, maps), "choice of regions": (choose, [*logits, *deltas, sizes]),
        "RoIAlign of 1000 boxes": (pool, [*maps[:4], regions]), "box head": (box_head, [features]),
        "RoIAlign of 100 masks": (pool_few, [*maps[:4], few]), "mask head": (mask_head, [few_features, labels]),
    }  # fmt: skip
    works = {name: lambda cell=cell, given=given: read(cell(*given)) for name, (cell, given) in calls.items()}
    works["boxes, NumPy"] = lambda: detect_regions(*rows, sizes.asnumpy()[0], limits=limits)
    return works


def read(outputs):
    """Wait for the first tensor of what a graph gives."""
    while isinstance(outputs, tuple):
        outputs = outputs[0]
    return outputs.asnumpy()


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

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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from mindcv_models import create_model
from mindcv_models.options import Group, option, parse
from mindcv_models.process import run
from mindcv_models.segmentation.folders import LabelledPictures, LabelMap
from mindcv_models.segmentation.inference import Inference, InferenceSettings, View
from mindcv_models.segmentation.objective import SegmentationObjective
from mindcv_models.segmentation.transforms import TrainTransform
from tools.turns import Part, medians

logger = logging.getLogger("segmentation_benchmark")

PARTS = ("joints", "labels", "data", "first_call")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass
class BenchmarkOptions(Group):
    """What is measured."""

    title = "Benchmark"

    parts: Tuple[str, ...] = option(PARTS, "what to measure", example="joints data")
    backbone: str = option("fastvit_t8", "the segmenter's backbone")
    size: Tuple[int, ...] = option((320, 320), "joints: height and width of the image", at_least=64)
    rounds: int = option(7, "rounds, each with all that are compared, after one that does not count", at_least=1)


def main():
    options = parse(BenchmarkOptions, __doc__)
    for part in options.parts:
        globals()[f"measure_{part}"](options)


def measure_joints(options):
    network = create_model("semantic_fpn", backbone=options.backbone, num_classes=150).set_train(False)
    images = Tensor(np.random.default_rng(0).standard_normal((1, 3, *options.size), np.float32))
    cells = (network.backbone, network.neck, network.decode_head)
    backbone, neck, head = (Part(cell).set_train(False) for cell in cells)
    maps = backbone(images)
    levels = neck(*maps)

    def parts():
        backbone(images)[0].asnumpy()
        neck(*maps)[0].asnumpy()
        head(*levels).asnumpy()

    found = medians(options.rounds, whole=lambda: network(images).asnumpy(), parts=parts)
    logger.info(
        "joints, %s at %d x %d: %.1f ms, its parts alone %.1f ms, ratio %.3f", options.backbone, *options.size,
        1e3 * found["whole"], 1e3 * found["parts"], found["whole"] / found["parts"],
    )  # fmt: skip


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
        found = medians(
            options.rounds,
            ours=lambda: [transform(*data.read(k), np.random.default_rng(k)) for k in range(count)],
            plain=lambda: [plain_sample(data, k) for k in range(count)],
        )
    ours, plain = (count / found[name] for name in ("ours", "plain"))
    logger.info("data: %.1f images/s a core, a plain loop %.1f, ratio %.2f", ours, plain, ours / plain)


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


class Step(nn.Cell):
    """A loss and its gradients."""

    def __init__(self, loss, network):
        super().__init__(auto_prefix=False)
        self.gradient = ms.value_and_grad(loss, None, list(network.trainable_params()))
        self.network = network
        self.set_train()

    def construct(self, *batch):
        return self.gradient(*batch)


def measure_first_call(options, size=320):
    rng = np.random.default_rng(0)
    images = Tensor(rng.standard_normal((2, 3, size, size), np.float32))
    classifier = create_model(options.backbone, num_classes=150)
    segmenter = create_model("semantic_fpn", backbone=options.backbone, num_classes=150)
    objective = SegmentationObjective(segmenter)
    labels = Tensor(rng.integers(0, 150, (2, size, size)).astype(np.int32))
    seconds = {}
    for name, step, target in (
        ("classifier", Step(lambda x, y: ops.cross_entropy(classifier(x), y), classifier), Tensor([0, 1], ms.int32)),
        ("segmenter", Step(lambda x, y: objective(x, y)[0], segmenter), labels),
    ):
        begin = time.perf_counter()
        step(images, target)[0].asnumpy()
        seconds[name] = time.perf_counter() - begin
    logger.info(
        "first call of a step, %s at %d x %d: segmenter %.1f s, its classifier %.1f s, ratio %.2f", options.backbone,
        size, size, seconds["segmenter"], seconds["classifier"], seconds["segmenter"] / seconds["classifier"],
    )  # fmt: skip


if __name__ == "__main__":
    run(main)

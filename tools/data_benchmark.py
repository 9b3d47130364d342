"""Compare the training throughput of the data pipeline with that of another commit, and with a plain Pillow loop.

python tools/data_benchmark.py
python tools/data_benchmark.py --workers 1 2 --against ../checkout-of-another-commit
python tools/data_benchmark.py --workers 8 --rounds 11 --auto_augment None

The work: read a JPEG file of 500 x 375, decode, random crop to 224, flip, RandAugment, normalise, erase. The files
are made from the two photographs that come with scikit-learn. The sides take turns, epoch by epoch, each in a process
of its own. See tools/lock_benchmark.py for what Python's lock allows.
"""

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mindcv_models.options import Group, option, parse
from mindcv_models.process import run

logger = logging.getLogger("data_benchmark")

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class BenchmarkOptions(Group):
    title = "Benchmark"

    images: int = option(256, "JPEG files to make", at_least=1)
    rounds: int = option(7, "rounds over all images, each by every side, after one that does not count")
    workers: Tuple[int, ...] = option((1,), "threads of the pipeline, one table each", at_least=1)
    against: Optional[str] = option(None, "folder of a checkout of another commit to compare with", path=True)
    auto_augment: Optional[str] = option(
        "randaug-m9-mstd0.5-inc1", "augmentation policy, or None; Pillow's is the same"
    )
    interpolation: str = option("bicubic", "resizing filter", ("bilinear", "bicubic"))


def main():
    options = parse(BenchmarkOptions, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), options.images)
        for workers in options.workers:
            compare(options, folder, paths, workers)


def compare(options, folder, paths, workers):
    """One table: images a second of each side, with this number of threads."""
    work = {
        "data_dir": folder, "dataset": "", "batch_size": 16, "image_resize": (224,), "re_prob": 0.25,
        "re_value": "random", "auto_augment": options.auto_augment, "interpolation": options.interpolation,
        "num_parallel_workers": workers,
    }  # fmt: skip
    pillow = PillowLoop(options)
    with ExitStack() as stack:
        sides = {
            "Pillow loop": lambda number: pillow.epoch(paths),
            "pipeline": stack.enter_context(Pipeline(ROOT, work)),
        }
        if options.against:
            sides["the other"] = stack.enter_context(Pipeline(Path(options.against).resolve(), work))
        speeds = {name: [] for name in sides}
        for number in range(1, options.rounds + 2):
            for name, epoch in sides.items():
                speeds[name].append(images_per_second(len(paths), lambda epoch=epoch, n=number: epoch(n)))
    cores = {name: 1 if name == "Pillow loop" else min(workers, os.cpu_count()) for name in sides}
    logger.info("%-12s %8s %9s %9s %6s", "images/s", "median", "smallest", "largest", "cores")
    medians = {}
    for name, (_, *values) in speeds.items():
        medians[name] = np.median(values) / cores[name]
        logger.info("%-12s %8.0f %9.0f %9.0f %6d", name, np.median(values), min(values), max(values), cores[name])
    logger.info("pipeline / Pillow loop, per core: %.2f", medians["pipeline"] / medians["Pillow loop"])
    if options.against:
        logger.info("pipeline / the other: %.3f", medians["pipeline"] / medians["the other"])
        ratios = np.array(speeds["pipeline"][1:]) / np.array(speeds["the other"][1:])
        logger.info("pipeline / the other, round by round: median %.3f, %s", np.median(ratios), np.round(ratios, 2))


CHILD = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from mindcv_models.classification.folders import prepare
from mindcv_models.classification.loader import create_train_loader
from mindcv_models.distributed import ONE_DEVICE
try:
    from mindcv_models.classification.options import TrainOptions as Options
except ImportError:
    from mindcv_models.options import Options
given = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(sys.argv[2]).items()}
loader = create_train_loader(prepare(Options(**given), ONE_DEVICE, training=True))
print("ready", flush=True)
for line in sys.stdin:
    for batch in loader.epoch(int(line)):
        pass
    print("done", flush=True)
"""


class Pipeline:
    """The training batches of a checkout, made by a process of its own; called with the number of an epoch."""

    def __init__(self, checkout: Path, work: dict):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(checkout), json.dumps(work)],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._wait("ready")

    def __call__(self, number):
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        self._wait("done")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def _wait(self, word):
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError("the process of a side ended; its error is above")


def images_per_second(count, work) -> float:
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def write_photographs(folder: Path, count: int):
    """``count`` different JPEG files of 500 x 375, in ``train/<class>/``: pieces of two photographs."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for i in range(count):
        photograph = photographs[i % 2]  # 640 x 427
        left, top = int(rng.integers(60)), int(rng.integers(40))
        piece = photograph.resize((500, 375), Image.Resampling.LANCZOS, box=(left, top, left + 500, top + 375))
        path = folder / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.save(path, quality=90)
        paths.append(path)
    return paths


class PillowLoop:
    """A simple loop with Pillow and NumPy, one image at a time, in batches of 16."""

    MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    FILL = (124, 116, 104)

    def __init__(self, options):
        self.rng = np.random.default_rng(0)
        self.augments = options.auto_augment is not None
        self.filter = Image.Resampling[options.interpolation.upper()]

    def epoch(self, paths):
        order = self.rng.permutation(len(paths))
        for start in range(0, len(paths), 16):
            np.stack([self.image(paths[i]) for i in order[start : start + 16]])

    def image(self, path):
        rng = self.rng
        with Image.open(path) as file:
            image = file.convert("RGB")
        image = self.crop(image)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augments:
            for name in rng.choice(len(self.OPERATIONS), 2):
                if rng.random() < 0.5:
                    level = min(max(rng.normal(9, 0.5), 0), 10) / 10
                    image = self.OPERATIONS[name](self, image, level, rng.choice((-1, 1)))
        array = np.asarray(image, np.float32) / 255
        array = np.ascontiguousarray(((array - self.MEAN) / self.STD).transpose(2, 0, 1))
        return self.erase(array) if rng.random() < 0.25 else array

    def crop(self, image):
        (width, height), rng = image.size, self.rng
        while True:
            area = width * height * rng.uniform(0.08, 1)
            ratio = math.exp(rng.uniform(math.log(0.75), math.log(1.333)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= width and h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return image.resize((224, 224), self.filter, box=(left, top, left + w, top + h))

    def erase(self, array):
        rng = self.rng
        while True:
            area, ratio = 224 * 224 * rng.uniform(0.02, 0.33), math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w < 224 and h < 224:
                left, top = rng.integers(224 - w + 1), rng.integers(224 - h + 1)
                array[:, top : top + h, left : left + w] = rng.standard_normal((3, h, w), np.float32)
                return array

    def warp(self, image, matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, self.filter, fillcolor=self.FILL)

    OPERATIONS = (
        lambda self, image, level, sign: ImageOps.autocontrast(image),
        lambda self, image, level, sign: ImageOps.equalize(image),
        lambda self, image, level, sign: ImageOps.invert(image),
        lambda self, image, level, sign: image.rotate(sign * 30 * level, self.filter, fillcolor=self.FILL),
        lambda self, image, level, sign: ImageOps.posterize(image, max(4 - int(4 * level), 1)),
        lambda self, image, level, sign: ImageOps.solarize(image, 256 - int(256 * level)),
        lambda self, image, level, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.9 * level),
        lambda self, image, level, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * level),
        lambda self, image, level, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * level),
        lambda self, image, level, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * level),
        lambda self, image, level, sign: self.warp(image, (1, sign * 0.3 * level, 0, 0, 1, 0)),
        lambda self, image, level, sign: self.warp(image, (1, 0, 0, sign * 0.3 * level, 1, 0)),
        lambda self, image, level, sign: self.warp(image, (1, 0, sign * 0.45 * level * 224, 0, 1, 0)),
        lambda self, image, level, sign: self.warp(image, (1, 0, 0, 0, 1, sign * 0.45 * level * 224)),
    )


if __name__ == "__main__":
    run(main)

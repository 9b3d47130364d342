"""How much of an image's time holds Python's lock, and how many threads it allows to work at once.

python tools/lock_benchmark.py
python tools/lock_benchmark.py --image_resize 64 --threads 1 2 4 8 16

The work is that of tools/data_benchmark.py. The calls that give the lock up (files, OpenCV, large NumPy loops) are
timed and recorded with their results; then the same batches are made again with each such call replaced by a sleep of
its time. Sleeping threads need neither the lock nor a core, so the speed of many threads shows what the lock alone
allows, on a machine with any number of cores.
"""

import logging
import os
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
from data_benchmark import write_photographs

from mindcv_models.classification import loader as batches
from mindcv_models.classification import transforms
from mindcv_models.classification.folders import prepare
from mindcv_models.classification.options import TrainOptions
from mindcv_models.data import images
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.options import Group, option, parse
from mindcv_models.process import run

logger = logging.getLogger("lock_benchmark")

OPENCV = ("imdecode", "resize", "flip", "warpAffine", "LUT", "addWeighted", "cvtColor", "filter2D", "bitwise_not",
          "bitwise_and", "calcHist", "mean", "split", "rotate", "GaussianBlur")  # fmt: skip
# What gives the lock up: (module, function).
FREE = [(cv2, name) for name in OPENCV] + [
    (images, "_read"), (transforms, "scaled"), (transforms, "fill"), (batches, "stack")
]  # fmt: skip


@dataclass
class LockOptions(Group):
    title = "Benchmark"

    images: int = option(64, "JPEG files to make", at_least=1)
    threads: Tuple[int, ...] = option((1, 2, 4, 8), "numbers of threads")
    rounds: int = option(5, "times that each number of threads makes all batches")
    image_resize: int = option(224, "image size")
    auto_augment: Optional[str] = option("randaug-m9-mstd0.5-inc1", "augmentation policy, or None")


class Tape:
    """Replaces functions: records the time and result of each call, or sleeps for it, batch by batch."""

    def __init__(self):
        self.here = threading.local()
        self.originals = {(module, name): getattr(module, name) for module, name in FREE}

    def install(self, make):
        for (module, name), original in self.originals.items():
            setattr(module, name, make(original))

    def remove(self):
        for (module, name), original in self.originals.items():
            setattr(module, name, original)

    def recording(self, original):
        def call(*args, **kwargs):
            if getattr(self.here, "depth", 0):  # within another call on the list
                return original(*args, **kwargs)
            self.here.depth = 1
            begin = time.perf_counter()
            result = original(*args, **kwargs)
            self.here.calls.append((time.perf_counter() - begin, result))
            self.here.depth = 0
            return result

        return call

    def playing(self, original):
        def call(*args, **kwargs):
            seconds, result = self.here.calls.popleft()
            time.sleep(seconds)
            return result

        return call


def main():
    options = parse(LockOptions, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        count = len(write_photographs(Path(folder), options.images))
        loader = batches.create_train_loader(
            prepare(
                TrainOptions(
                    data_dir=folder, dataset="", batch_size=16, image_resize=(options.image_resize,), re_prob=0.25,
                    re_value="random", auto_augment=options.auto_augment, interpolation="bicubic",
                    num_parallel_workers=1,
                ),
                ONE_DEVICE, training=True,
            )
        )  # fmt: skip
        tape, shown, steps = Tape(), loader.order(1), range(len(loader))
        calls = record(tape, loader, shown, steps)
    free = 1e6 * sum(seconds for step in calls for seconds, _ in step) / count
    held = 1e6 * min(plain(loader, tape, calls, shown, steps) for _ in range(options.rounds)) / count
    logger.info("%.0f us an image without the lock, %.0f with it: %.1f %%", free, held, 100 * held / (free + held))
    logger.info("%7s %10s %8s", "threads", "images/s", "speed-up")
    tape.install(tape.playing)
    first = None
    for threads in options.threads:
        speed = count / min(play(tape, loader, calls, shown, steps, threads) for _ in range(options.rounds))
        first = first or speed
        logger.info("%7d %10.0f %8.2f", threads, speed, speed / first)
    tape.remove()


def record(tape, loader, shown, steps):
    """The calls of each batch, (seconds, result) each; the fastest of three times, since other processes disturb."""
    tape.install(tape.recording)
    found = []
    for step in steps:
        tries = []
        for _ in range(3):
            tape.here.calls = []
            loader._batch(shown, 1, step)
            tries.append(tape.here.calls)
        fastest = [min(call[0] for call in each) for each in zip(*tries)]
        found.append([(seconds, result) for seconds, (_, result) in zip(fastest, tries[-1])])
    tape.remove()
    return found


def plain(loader, tape, calls, shown, steps):
    """Seconds for all batches in one thread when what needs no lock takes no time."""
    tape.install(lambda original: lambda *args, **kwargs: tape.here.calls.popleft()[1])
    begin = time.perf_counter()
    for step in steps:
        tape.here.calls = deque(calls[step])
        loader._batch(shown, 1, step)
    seconds = time.perf_counter() - begin
    tape.remove()
    return seconds


def play(tape, loader, calls, shown, steps, threads):
    """Seconds in which so many threads make each batch once per thread, divided by their number."""

    def batch(step):
        tape.here.calls = deque(calls[step])
        loader._batch(shown, 1, step)

    with ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        list(pool.map(batch, [step for step in steps for _ in range(threads)]))
        return (time.perf_counter() - begin) / threads


if __name__ == "__main__":
    run(main)

"""Time models side by side, in one process and in graph mode, against the first of them.

    python benchmark.py
    python benchmark.py --models resnet50 fastvit_t8 fastvit_sa24 --batch_size 8 --csv speed.csv
    python benchmark.py --models resnet50 fastvit_t8 --train

Inference is timed on networks in their reparameterized form, where they have one (``--unfused`` keeps the training
form); ``--train`` adds a training step of the training form: forward, backward and AdamW's update. A round runs each
model once, so that a disturbance hits all; the table gives the median over the rounds and their quartiles. Inputs are
random and stay in memory, so nothing here measures reading data.
"""

import argparse
import csv
import os
import time

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

import mindspore as ms
import numpy as np
from mindcv.models.registry import get_pretrained_cfg, is_model
from mindspore import nn

import mindcv_models
from mindcv_models.cli import run
from mindcv_models.errors import InputError

COLUMNS = ("model", "what", "size", "first call s", "median ms", "quartiles ms", "images/s", "ratio")


class TrainingStep:
    """One compiled update on a fixed batch, the loss being cross entropy."""

    def __init__(self, network, images):
        self.images = images
        self.labels = ms.Tensor(np.arange(len(images)) % 1000, ms.int32)
        loss_function = nn.CrossEntropyLoss()
        optimizer = nn.AdamWeightDecay(network.trainable_params(), 1e-4, weight_decay=0.05)

        def forward(images, labels):
            return loss_function(network(images), labels)

        gradient = ms.value_and_grad(forward, None, optimizer.parameters)

        def step(images, labels):
            loss, gradients = gradient(images, labels)
            optimizer(gradients)
            return loss

        self.step = ms.jit(step)

    def __call__(self):
        return self.step(self.images, self.labels).asnumpy()


class Candidate:
    """A model with its batch and its times in seconds; building it makes the first call and the warm-up."""

    def __init__(self, name, train, options):
        network = mindcv_models.create_model(name)
        channels, height, width = get_pretrained_cfg(name).get("input_size", (3, 224, 224))
        if options.image_size:
            height = width = options.image_size
        images = np.random.default_rng(0).standard_normal((options.batch_size, channels, height, width))
        images = ms.Tensor(images.astype(np.float32))
        if train:
            self.run = TrainingStep(network.set_train(True), images)
        else:
            network = network if options.unfused else mindcv_models.reparameterize(network)
            network.set_train(False)
            self.run = lambda: network(images).asnumpy()
        self.name, self.what, self.size = name, "train" if train else "inference", f"{height}x{width}"
        self.batch_size, self.times = options.batch_size, []
        self.first = self.time()
        for _ in range(options.warmup):
            self.run()

    def time(self):
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def row(self, yardstick):
        low, median, high = np.percentile(self.times, [25, 50, 75]) * 1e3
        ratio = np.median(yardstick.times) * 1e3 / median
        return (self.name, self.what, self.size, f"{self.first:.1f}", f"{median:.1f}", f"{low:.1f}-{high:.1f}",
                f"{self.batch_size / median * 1e3:.1f}", f"{ratio:.2f}")  # fmt: skip


def measure(train, options):
    """The table's rows for inference, or for training."""
    candidates = [Candidate(name, train, options) for name in options.models]
    for _ in range(options.rounds):
        for candidate in candidates:
            candidate.times.append(candidate.time())
    return [candidate.row(candidates[0]) for candidate in candidates]


def check(options):
    for name in options.models:
        if not is_model(name):
            raise InputError(f"--models {name}: no such model; mindcv_models.list_models() has the names.")
    for name in ("batch_size", "rounds"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give a whole number of at least 1.")
    for name in ("warmup", "image_size"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name} {getattr(options, name)}: give a whole number that is not negative.")


def write_csv(path, rows):
    try:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    except OSError as error:
        raise InputError(f"--csv {path}: cannot be written ({error.strerror}); give another path.") from error


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "fastvit_t8", "fastvit_sa24"], metavar="NAME",
                        help="the first is the yardstick")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=0, help="0, the default, is each model's own")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2, help="calls after the first that are not counted")
    parser.add_argument("--unfused", action="store_true", help="inference in the training form")
    parser.add_argument("--train", action="store_true", help="time a training step too")
    parser.add_argument("--csv", metavar="FILE", help="write the table there too")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    check(options)
    ms.set_context(mode=ms.GRAPH_MODE)
    rows = measure(False, options) + (measure(True, options) if options.train else [])
    widths = [max(len(row[i]) for row in (COLUMNS, *rows)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    run(main)

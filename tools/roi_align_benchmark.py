"""Compare the forms of RoIAlign, one layer at a time.

    python tools/roi_align_benchmark.py
    python tools/roi_align_benchmark.py --image_size 320 320 --regions 128 --sizes 7
    python tools/roi_align_benchmark.py --forms loops products --csv roi_align.csv

Prints the time of a call and of its gradient, and the memory that the process took at the most until then, for features
of each size, on a pyramid of strides 4 to 32. The forms are "loops" (in C++, on the CPU alone), "products" (a
product of matrices an axis, on every back end) and "operator" (MindSpore's `ROIAlign`, with 2 samples a bin; it has no
adaptive samples and no half-pixel shift, so its features are others).
"""

import argparse
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models import backend
from mindcv_models.evaluation import csv_table
from mindcv_models.files import write_text
from mindcv_models.layers import RoIAlign

STRIDES = (4, 8, 16, 32)


class Operator(RoIAlign):
    """MindSpore's operator on every level, of which each region takes its own."""

    def __init__(self, size):
        super().__init__(size)
        self.pools = [ops.ROIAlign(size, size, 1 / stride, 2, 0) for stride in STRIDES]

    def construct(self, maps, boxes):
        levels = self.levels(boxes).reshape(-1)
        b, r, _ = boxes.shape
        images = ops.arange(b).astype(ms.float32).expand_dims(1).broadcast_to((b, r)).reshape(-1, 1)
        rows = ops.concat((images, boxes.reshape(-1, 4)), 1)
        pooled = 0
        for k in range(len(STRIDES)):
            own = (levels == k).astype(ms.float32).reshape(-1, 1, 1, 1)
            pooled = pooled + self.pools[k](maps[k], rows) * own
        return pooled


def build(form, size):
    if form == "operator":
        return Operator(size)
    if form == "loops":
        layer = RoIAlign(size)
        if layer.loops is None:
            sys.exit("the form in C++ is for the CPU and needs g++, decorator and attrs: install them.")
        return layer
    with backend.portable_form():
        return RoIAlign(size)


class Pooled(nn.Cell):
    """A layer over four maps that are arguments."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def construct(self, a, b, c, d, boxes):
        return self.layer((a, b, c, d), boxes)


class Backward(nn.Cell):
    """The layer's gradient by the maps, for a gradient of ones."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.gradient = ms.grad(self.total, (0, 1, 2, 3))

    def total(self, a, b, c, d, boxes):
        return self.network(a, b, c, d, boxes).sum()

    def construct(self, a, b, c, d, boxes):
        return self.gradient(a, b, c, d, boxes)


def regions(count, height, width):
    """Boxes of all sizes and shapes within the image, ``(1, count, 4)``."""
    rng = np.random.default_rng(0)
    side = np.exp(rng.uniform(np.log(16), np.log(min(height, width)), count))
    ratio = np.exp(rng.uniform(-0.7, 0.7, count))
    sides = np.minimum(np.stack([side * ratio, side / ratio], 1), [width, height])
    corner = rng.uniform(0, 1, (count, 2)) * ([width, height] - sides)
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)[None]


def seconds(network, inputs, repeats):
    """The median time of a call, after a compiling call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = network(*inputs)
        (result[0] if isinstance(result, tuple) else result).asnumpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def measure(options):
    height, width = options.image_size
    rng = np.random.default_rng(1)
    shapes = [(1, options.channels, -(-height // stride), -(-width // stride)) for stride in STRIDES]
    maps = [ms.Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    inputs = (*maps, ms.Tensor(regions(options.regions, height, width)))
    rows = []
    for size in options.sizes:
        for form in options.forms:
            network = Pooled(build(form, size))
            forward = seconds(network, inputs, options.repeats)
            gradient = seconds(Backward(network), inputs, options.repeats)
            memory = (backend.peak_memory() or 0) / 2**20
            rows.append(
                {"form": form, "size": size, "forward_ms": round(1000 * forward, 1),
                 "gradient_ms": round(1000 * gradient, 1), "peak_memory_mib": round(memory)}
            )  # fmt: skip
            print("{form:9} {size:2}x{size:<2} {forward_ms:9} ms  gradient {gradient_ms:9} ms  peak memory "
                  "{peak_memory_mib:6} MiB".format(**rows[-1]), flush=True)  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, nargs=2, default=[800, 1344], help="height and width [800 1344]")
    parser.add_argument("--regions", type=int, default=512, help="regions of the image [512]")
    parser.add_argument("--channels", type=int, default=256, help="channels of the maps [256]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[7, 14], help="sides of the features [7 14]")
    parser.add_argument("--forms", nargs="+", default=["loops", "products", "operator"], help="forms [all three]")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls [3]")
    parser.add_argument("--csv", help="CSV file to write")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    rows = measure(options)
    if options.csv:
        write_text(Path(options.csv), csv_table(rows))


if __name__ == "__main__":
    main()

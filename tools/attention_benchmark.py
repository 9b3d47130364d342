"""Compare HiLo with other attention layers, one layer at a time.

    python tools/attention_benchmark.py
    python tools/attention_benchmark.py --batch_size 64 --dim 384 --num_heads 12 --sizes 14 28 56
    python tools/attention_benchmark.py --plot attention.png --csv attention.csv

Prints the throughput (images/s), multiply-accumulates and parameters of each layer for feature maps of each size, at
inference. The plot needs matplotlib.
"""

import argparse
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models.evaluation import csv_table, new_figure, save_figure
from mindcv_models.files import write_text
from mindcv_models.layers import CrossAttention
from mindcv_models.models.litv2 import HiLo, linear, pad_to_multiple


class MultiHead(HiLo):
    """Plain multi-head attention between all tokens: HiLo with a window of 1."""

    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads, window_size=1)


class Window(HiLo):
    """Attention within windows of 7x7: HiLo without low-frequency heads."""

    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads, window_size=7, alpha=0)


class SpatialReduction(nn.Cell):
    """Attention of all tokens to a map reduced by a strided convolution (Wang et al., PVT, ICCV 2021)."""

    def __init__(self, dim, num_heads, reduction=2):
        super().__init__()
        self.dim, self.reduction = dim, reduction
        self.q, self.kv, self.proj = linear(dim, dim, bias=False), linear(dim, 2 * dim, bias=False), linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, reduction, reduction, pad_mode="pad", has_bias=True)
        self.norm = nn.LayerNorm((dim,), epsilon=1e-5)
        self.attention = CrossAttention(num_heads, (dim // num_heads) ** -0.5)

    def construct(self, x, height, width):
        b, _, c = x.shape
        grid = x.swapaxes(1, 2).reshape(b, c, height, width)
        grid = self.sr(pad_to_multiple(pad_to_multiple(grid, 2, self.reduction), 3, self.reduction))
        reduced = self.norm(grid.reshape(b, c, -1).swapaxes(1, 2))  # (B, M, C)
        return self.proj(self.attention(self.q(x), self.kv(reduced)))

    def flops(self, height, width):
        tokens, dim = height * width, self.dim
        reduced = -(-height // self.reduction) * -(-width // self.reduction)
        return 2 * tokens * dim**2 + reduced * dim**2 * (self.reduction**2 + 2) + 2 * tokens * reduced * dim


LAYERS = {
    "multi-head": MultiHead,
    "window 7": Window,
    "spatial reduction 2": SpatialReduction,
    "HiLo 2, alpha 0.5": lambda dim, heads: HiLo(dim, heads, window_size=2, alpha=0.5),
    "HiLo 2, alpha 0.9": lambda dim, heads: HiLo(dim, heads, window_size=2, alpha=0.9),
}


def seconds(layer, x, size, repeats):
    """The median time of a call, after a compiling call and a warm-up call."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        layer(x, size, size).asnumpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def measure(options):
    rows = []
    for size in options.sizes:
        x = ms.Tensor(
            np.random.RandomState(0).standard_normal((options.batch_size, size * size, options.dim)), ms.float32
        )
        for name, build in LAYERS.items():
            layer = build(options.dim, options.num_heads).set_train(False)
            rate = options.batch_size / seconds(layer, x, size, options.repeats)
            parameters = sum(parameter.size for parameter in layer.trainable_params())
            rows.append(
                {"layer": name, "size": size, "images_per_second": round(rate, 1),
                 "flops": layer.flops(size, size), "parameters": parameters}
            )  # fmt: skip
            print("{layer:20} {size:3}x{size:<3} {images_per_second:9} images/s {flops:14,} MACs".format(**rows[-1]))
    return rows


def plot(rows, path):
    figure = new_figure(10, 4)
    axes = figure.subplots(1, 2)
    for axis, key, label in zip(
        axes, ("images_per_second", "flops"), ("throughput (images/s)", "multiply-accumulates")
    ):
        for name in LAYERS:
            points = [(row["size"], row[key]) for row in rows if row["layer"] == name]
            axis.plot(*zip(*points), marker="o", label=name)
        axis.set(xlabel="side of the map in tokens", ylabel=label, yscale="log")
    axes[0].legend()
    save_figure(figure, Path(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8, help="batch size [8]")
    parser.add_argument("--dim", type=int, default=384, help="channels [384]")
    parser.add_argument("--num_heads", type=int, default=12, help="heads [12]")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[14, 28, 42, 56], help="sides of the maps [14 28 42 56]"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per layer [5]")
    parser.add_argument("--csv", help="CSV file to write")
    parser.add_argument("--plot", help="plot file to write")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    rows = measure(options)
    if options.csv:
        write_text(Path(options.csv), csv_table(rows))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

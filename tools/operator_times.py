"""Profile a model on the CPU with MindSpore's profiler: time by kind of operator, and the slowest cells.

    python tools/operator_times.py --model fastvit_t8
    python tools/operator_times.py --model litv2_s --batch_size 1 --cells 20
    python tools/operator_times.py --model faster_vit_0_224 --train True

In graph mode: inference in the reparameterized form, or a training step (forward, backward and AdamW's update).
Operators run one after the other, each on all cores, so their times add up to nearly the time of a call; the rest is
spent between them.
"""

import contextlib
import csv
import io
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

import mindspore as ms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models import backend
from mindcv_models.benchmark import Job
from mindcv_models.benchmark.subject import TimedModel
from mindcv_models.errors import InputError
from mindcv_models.options import option, parse
from mindcv_models.process import run


@dataclass
class ProfileOptions:
    model: str = option("fastvit_t8", "name of a model of this project or of MindCV")
    batch_size: int = option(8, "batch size")
    image_size: int = option(0, "image size; default: the model's own")
    reparam: bool = option(True, "inference: use the reparameterized form")
    train: bool = option(False, "profile a training step")
    steps: int = option(5, "number of calls to average over")
    cells: int = option(10, "number of slowest operators to list, with their cells")


@dataclass
class Operator:
    """An operator of the graph: its kind, the cell that called it, and its milliseconds per call of the network."""

    kind: str
    cell: str
    milliseconds: float


def profile(call, cell, steps):
    """The operators of a compiled cell, and the milliseconds of a call, which returns a tensor."""
    call().asnumpy()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        profiler = ms.Profiler(output_path=folder)
        start = time.perf_counter()
        for _ in range(steps):
            call().asnumpy()
        whole = (time.perf_counter() - start) / steps * 1e3
        profiler.analyse()
        (table,) = Path(folder).rglob("cpu_op_detail_info_*.csv")
        with open(table, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    cells = dict(cell.cells_and_names())
    return [_operator(row, cells, steps) for row in rows], whole


def _operator(row, cells, steps):
    # Default/stages-SequentialCell/0-Block/conv-Conv2d/Conv2D-op0 is the operator of the cell stages.0.conv, and
    # Gradients/Default/.../conv-Conv2d/Grad_Conv2D/Conv2DBackpropInput-op0 one of its gradients.
    scopes = row["full_op_name"].split("/")[:-1]
    backward = "Gradients" in scopes
    names = [scope.partition("-")[0] for scope in scopes if not scope.startswith(("Default", "Gradients", "Grad_"))]
    path = ".".join(names)
    kind = _kind(row["op_type"], cells.get(path), backward)
    return Operator(kind, path, float(row["op_total_time(ms)"]) / steps)


def _kind(primitive, cell, backward=False):
    if primitive.startswith("GraphKernel"):
        return "fused arithmetic"
    own = primitive == "Custom" and cell is not None
    if not primitive.startswith(("Conv2D", "Custom")) or not hasattr(cell, "kernel_size"):
        return f"{type(cell).__name__} in C++" + (" backward" if backward else "") if own else primitive
    size, stride = cell.kernel_size[0], cell.stride[0]
    kind = f"convolution {size}x{size}" + (f" stride {stride}" if stride > 1 else "")
    if cell.group > 1:
        kind += " depthwise" if cell.group == cell.in_channels else " grouped"
    return kind + (" in C++" if own else "") + (" backward" if backward else "")


def show(operators, whole, cells):
    times, calls = Counter(), Counter()
    for operator in operators:
        times[operator.kind] += operator.milliseconds
        calls[operator.kind] += 1
    times["between operators"] = whole - sum(times.values())
    print(f"{'kind':36} {'number':>6} {'ms':>8} {'part':>6}")
    for kind, milliseconds in times.most_common():
        print(f"{kind:36} {calls[kind] or '':>6} {milliseconds:8.2f} {milliseconds / whole:6.1%}")
    print(f"{'total per call':36} {len(operators):6} {whole:8.2f}")
    print()
    for operator in sorted(operators, key=lambda o: -o.milliseconds)[:cells]:
        print(f"{operator.milliseconds:8.2f} ms  {operator.kind:36} {operator.cell}")


def main():
    options = parse(ProfileOptions, __doc__)
    for name in ("batch_size", "steps"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}, but must be at least 1.")
    for name in ("image_size", "cells"):
        if getattr(options, name) < 0:
            raise InputError(f"{name} is {getattr(options, name)}, but must not be negative.")
    size = (options.image_size,) * 2 if options.image_size else None
    device = None if backend.device_target() == "CPU" else "CPU"
    job = Job(options.model, options.train, options.batch_size, size, options.reparam, device_target=device)
    model = TimedModel(job)
    show(*profile(model.call, model.cell, options.steps), options.cells)


if __name__ == "__main__":
    run(main)

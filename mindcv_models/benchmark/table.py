"""Timings as table rows: all values for a CSV file, the main ones for printing."""

import functools
import os
import platform
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import mindcv
import mindspore as ms
import numpy as np

from .. import backend
from ..evaluation import csv_text
from ..files import atomic_output
from ..models.registry import create_model
from ..profile import profile
from ..reparameterize import reparameterize
from .published import PUBLISHED
from .worker import Timing

__all__ = ["header", "line", "row_of", "titles", "write_csv"]

Row = Dict[str, Any]


def row_of(timing: Timing) -> Row:
    """All values of a timing by column name; None for unknown values."""
    job = timing.job
    reparam = job.reparam and not job.train
    parameters, fused_parameters, fusable, flops = _costs(job.model, job.size, reparam)
    low, median, high = np.percentile(timing.latencies, [25, 50, 75]) * 1e3
    published = PUBLISHED.get(job.model)
    return {
        "model": job.model, "what": "train" if job.train else "inference",
        "fused": "yes" if reparam and fusable else "no", "size": f"{job.size[0]}x{job.size[1]}",
        "batch": job.batch_size, "parameters": parameters, "fused parameters": fused_parameters, "MACs": flops,
        "compile s": timing.compile_time, "latency ms": median, "lower quartile": low, "upper quartile": high,
        "images/s": timing.images_per_second, "ratio": timing.ratio, "memory": timing.memory,
        "top-1": published and published.top1, "published by": published and published.source,
        "device": timing.device, "mode": _mode(job), "amp_level": job.amp_level,
        "mindspore": ms.__version__, "mindcv": mindcv.__version__,
    }  # fmt: skip


@functools.cache
def _costs(model: str, size: Tuple[int, int], reparam: bool) -> Tuple[int, int, bool, int]:
    """Parameters of the training and the fused form, whether the model can be fused, and MACs of the chosen form.

    They are counted in this process, which times nothing, on networks in the portable form.
    """
    with backend.portable_form():
        network = create_model(model)
        fused = reparameterize(network)
        fusable = any(hasattr(cell, "fuse") for _, cell in network.cells_and_names())
        parameters = [sum(p.size for p in form.trainable_params()) for form in (network, fused)]
        return *parameters, fusable, profile(fused if reparam else network, *size).flops


def _mode(job):
    return "PyNative" if job.mode else "graph"


def header(timing: Timing) -> str:
    """One line on hardware, versions and settings of the whole table."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{timing.device}, {cores} {platform.machine()} cores, Python {platform.python_version()}, MindSpore "
        f"{ms.__version__}, MindCV {mindcv.__version__}, {_mode(timing.job)} mode, amp_level {timing.job.amp_level}"
    )


# Title, width and format of each column. The model's name comes first and is as wide as the longest name.
_COLUMNS = (
    ("what", 9, lambda r: r["what"]),
    ("fused", 5, lambda r: r["fused"]),
    ("size", 7, lambda r: r["size"]),
    ("batch", 5, lambda r: str(r["batch"])),
    ("params M", 8, lambda r: f"{r['parameters'] / 1e6:.2f}"),
    ("fused M", 7, lambda r: f"{r['fused parameters'] / 1e6:.2f}"),
    ("GMAC", 6, lambda r: f"{r['MACs'] / 1e9:.2f}"),
    ("compile s", 9, lambda r: f"{r['compile s']:.1f}"),
    ("ms", 7, lambda r: f"{r['latency ms']:.1f}"),
    ("quartiles", 15, lambda r: f"{r['lower quartile']:.1f}-{r['upper quartile']:.1f}"),
    ("images/s", 8, lambda r: f"{r['images/s']:.1f}"),
    ("ratio", 5, lambda r: f"{r['ratio']:.2f}"),
    ("MB", 6, lambda r: "" if r["memory"] is None else f"{r['memory'] / 1e6:.0f}"),
    ("top-1", 5, lambda r: "" if r["top-1"] is None else f"{r['top-1']:.1f}"),
)


def titles(width: int) -> str:
    """The header line of the table, for model names of up to ``width`` characters."""
    return " ".join(["model".ljust(width), *(title.rjust(w) for title, w, _ in _COLUMNS)])


def line(row: Row, width: int) -> str:
    """A row as a line under :func:`titles`."""
    return " ".join([row["model"].ljust(width), *(show(row).rjust(w) for _, w, show in _COLUMNS)])


def write_csv(rows: Sequence[Row], path: str) -> None:
    """Write rows as CSV, atomically.

    Raises:
        InputError: the folder is not writable.
    """
    with atomic_output(Path(path), "csv") as partial:
        partial.write_text(csv_text(list(rows[0]), rows), encoding="utf-8")

"""Throughput, latency, memory and compile time of models, with their published accuracy.

Each model runs in its own process (``worker``), with its own memory, kernels and settings. In each round it takes turns
with the first model, the baseline, so that a disturbance affects both.
"""

from .plot import check_plot, plot
from .subject import Job
from .table import header, line, row_of, titles, write_csv
from .worker import Timing, Worker, measure, take_turns

__all__ = [
    "Job",
    "Timing",
    "Worker",
    "check_plot",
    "header",
    "line",
    "measure",
    "plot",
    "row_of",
    "take_turns",
    "titles",
    "write_csv",
]

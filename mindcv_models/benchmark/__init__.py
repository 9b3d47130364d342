"""Speed, memory and compile time of models, beside their published accuracy.

Each model runs in a process of its own (``worker``): it then has the memory, kernels and settings that it has where it
runs alone. Rounds give it and the first model, the yardstick, a turn each, so that a disturbance hits both.
"""

from .plot import check_plot, plot
from .subject import Job
from .table import header, line, row_of, titles, write_csv
from .worker import Timing, measure

__all__ = ["Job", "Timing", "check_plot", "header", "line", "measure", "plot", "row_of", "titles", "write_csv"]

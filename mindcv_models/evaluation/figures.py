"""Figures by matplotlib, without a window."""

import contextlib
import os
from pathlib import Path

from ..errors import InputError
from ..files import atomic_write

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float = 6.4, height: float = 4.8):
    """An empty matplotlib figure; sizes in inches, at 100 dots each.

    Raises:
        InputError: matplotlib is not installed.
    """
    with _without_window():
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InputError("pictures need matplotlib: pip install matplotlib.") from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


@contextlib.contextmanager
def _without_window():
    """A notebook's MPLBACKEND names a back end that this environment may lack; matplotlib's import refuses it then."""
    inherited = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        del os.environ["MPLBACKEND"]
        if inherited is not None:
            os.environ["MPLBACKEND"] = inherited


def save_figure(figure, path: Path) -> None:
    """Write a figure atomically; the suffix of ``path`` gives the format."""
    with atomic_write(path) as partial:
        figure.savefig(partial)

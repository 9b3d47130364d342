"""Figures by matplotlib, as PNG, without a window."""

from pathlib import Path

from ..errors import InputError
from ..files import atomic_write

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float = 6.4, height: float = 4.8):
    """An empty matplotlib figure; sizes in inches, at 100 dots each.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib: pip install matplotlib.") from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png")

"""Accuracy against speed, as a picture."""

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Iterable, Mapping

from ..errors import InputError
from ..export.files import aside
from .published import PUBLISHED

__all__ = ["check_plot", "plot"]

# Where a point's name may stand, in points from it, and the side of the name that is there; if none is free, the last.
_PLACES = ((5, 4, "left"), (5, -10, "left"), (-5, 4, "right"), (-5, -10, "right"), (5, 4, "left"))


def check_plot(path: str, models: Iterable[str]) -> None:
    """Raise InputError unless a picture of ``models`` can be drawn and written to ``path``."""
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"plot is {path}, but must end in .png, .svg or .pdf, which says what to write.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("plot needs matplotlib: run `pip install matplotlib`, or leave --plot out.")
    if not set(models) & set(PUBLISHED):
        raise InputError(
            "plot has nothing to draw: no published accuracy is known of the models; add it to "
            "mindcv_models/benchmark/published.py, or leave --plot out."
        )


def plot(speeds: Mapping[str, float], path: str, title: str) -> None:
    """Draw the published accuracy of models over their measured ``speeds``, images a second by model's name.

    Models of a family are joined by a line; one whose accuracy is not in ``PUBLISHED`` is left out.
    """
    from matplotlib.figure import Figure  # no window system, no global state
    from matplotlib.ticker import LogLocator

    series = defaultdict(list)
    for model, speed in speeds.items():
        if model in PUBLISHED:
            series[PUBLISHED[model].series].append((speed, PUBLISHED[model].top1, model))
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        x, y, _ = zip(*sorted(points))
        line = "none" if name.startswith("MindCV") else "-"
        axes.plot(x, y, marker="o", linestyle=line, label=name)
    axes.set(xscale="log", xlabel="images a second, measured", ylabel="top-1, %, published")
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    write_names(axes, [point for points in series.values() for point in points])
    with aside(Path(path)) as partial:
        figure.savefig(partial)


def write_names(axes, points):
    """The name of each point ``(x, y, name)`` beside it, where it covers neither another name nor a point if it can."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # which settles where the points are
    corners = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in corners]
    for x, y, name in points:
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8)
        for right, up, side in _PLACES:
            text.set(position=(right, up), horizontalalignment=side)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)

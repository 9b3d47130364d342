"""Plot of accuracy over throughput."""

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Iterable, Mapping

from ..errors import InputError
from ..evaluation.figures import new_figure
from ..files import atomic_output
from .published import PUBLISHED

__all__ = ["check_plot", "plot"]

# Candidate positions of a point's name: offset in points, and alignment; if all overlap something, the last is used.
_PLACES = ((5, 4, "left"), (5, -10, "left"), (-5, 4, "right"), (-5, -10, "right"), (5, 4, "left"))


def check_plot(path: str, models: Iterable[str]) -> None:
    """Raise InputError unless ``models`` can be plotted and ``path`` has a supported format."""
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"plot is {path}, but must end in .png, .svg or .pdf, which selects the format.")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("plot needs matplotlib: run `pip install matplotlib`, or leave --plot out.")
    if not set(models) & set(PUBLISHED):
        raise InputError(
            "plot has no data: none of the models has a published accuracy; add one to "
            "mindcv_models/benchmark/published.py, or leave --plot out."
        )


def plot(throughputs: Mapping[str, float], path: str, title: str) -> None:
    """Plot the published accuracy of models over their measured ``throughputs`` (images/s), by model name.

    Models of a family are joined by a line. Models that are not in ``PUBLISHED`` are left out.
    """
    figure = new_figure(8, 5)
    from matplotlib.ticker import LogLocator

    series = defaultdict(list)
    for model, throughput in throughputs.items():
        if model in PUBLISHED:
            series[PUBLISHED[model].series].append((throughput, PUBLISHED[model].top1, model))
    axes = figure.subplots()
    for name, points in series.items():
        x, y, _ = zip(*sorted(points))
        line = "none" if name.startswith("MindCV") else "-"
        axes.plot(x, y, marker="o", linestyle=line, label=name)
    axes.set(xscale="log", xlabel="measured throughput (images/s)", ylabel="published top-1 (%)")
    axes.set_title(title, fontsize=9)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    write_names(axes, [point for points in series.values() for point in points])
    with atomic_output(Path(path), "plot") as partial:
        figure.savefig(partial)


def write_names(axes, points):
    """Write the name of each point ``(x, y, name)`` beside it, if possible without covering names or points."""
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # computes the positions of the points
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

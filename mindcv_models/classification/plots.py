"""Plots of a checkpoint's :class:`~mindcv_models.classification.details.ClassificationReport`, as PNG."""

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ..evaluation import new_figure, save_figure
from .details import BINS, GRID, ClassificationReport

__all__ = ["plot_corruptions", "plot_report"]

# Up to this number of classes, plots show the name and the curve of each class.
FEW = 20


def plot_report(report: ClassificationReport, folder: Path) -> List[Path]:
    """Write all plots of ``report`` to ``folder``; returns their paths."""
    figures = {
        "confusion_matrix.png": _confusion(report),
        "per_class.png": _per_class(report),
        "roc.png": _curves(report, report.roc, report.roc_averages, "false positive rate", "true positive rate"),
        "precision_recall.png": _curves(
            report, report.precision_recall, report.precision_recall_averages, "recall", "precision"
        ),
        "calibration.png": _calibration(report),
    }
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / name for name in figures]


def plot_corruptions(errors: Dict[Tuple[str, int], float], title: str, path: Path) -> None:
    """Plot a table of top-1 by corruption and severity, with means, from errors (0 to 1) by (corruption, severity)."""
    corruptions = sorted({corruption for corruption, _ in errors})
    severities = sorted({severity for _, severity in errors})
    top1 = np.full((len(corruptions), len(severities) + 1), np.nan)
    for (corruption, severity), error in errors.items():
        top1[corruptions.index(corruption), severities.index(severity)] = 100 * (1 - error)
    top1[:, -1] = np.nanmean(top1[:, :-1], axis=1)
    figure = new_figure(3 + 0.7 * len(severities), 1.6 + 0.32 * len(corruptions))
    axes = figure.subplots()
    picture = axes.imshow(top1, cmap="viridis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="top-1 (%)")
    axes.set_xticks(range(len(severities) + 1), [*severities, "mean"])
    axes.set_yticks(range(len(corruptions)), [name.replace("_", " ") for name in corruptions], parse_math=False)
    axes.set(xlabel="severity", title=title)
    for (i, j), percent in np.ndenumerate(top1):
        if not np.isnan(percent):
            colour = "black" if percent > 60 else "white"
            axes.text(j, i, f"{percent:.1f}", ha="center", va="center", color=colour, fontsize=8)
    save_figure(figure, path)


def _confusion(report):
    count = len(report.names)
    size = 6.4 if count > FEW else max(4.8, 2.5 + 0.4 * count)
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    totals = report.confusion.sum(1, keepdims=True)
    fractions = report.confusion / np.maximum(totals, 1)
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="fraction of the class's images", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="class", title=f"Confusion matrix, {totals.sum()} images")
    if count <= FEW:
        axes.set_xticks(range(count), report.names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), report.names, parse_math=False)
        for (i, j), images in np.ndenumerate(report.confusion):
            if images:
                axes.text(j, i, images, ha="center", va="center", color="white" if fractions[i, j] > 0.5 else "black",
                          fontsize=8)  # fmt: skip
    return figure


def _per_class(report):
    order = report.present[np.argsort(report.per_class[report.present], kind="stable")]
    top1 = 100 * report.per_class[order]
    few = len(order) <= 2 * FEW
    figure = new_figure(6.4, max(3, 1 + 0.22 * len(order)) if few else 4.8)
    axes = figure.subplots()
    if few:
        axes.barh(range(len(order)), top1)
        axes.set_yticks(range(len(order)), [report.names[i] for i in order], parse_math=False)
        axes.set(xlabel="top-1 (%)", xlim=(0, 100))
    else:
        axes.plot(np.arange(1, len(order) + 1), top1)
        axes.set(xlabel="classes, worst first", ylabel="top-1 (%)", ylim=(0, 102))
    axes.set_title(f"Accuracy by class, mean {top1.mean():.2f} %")
    return figure


def _curves(report, curves, averages, x, y):
    figure = new_figure(6.4, 5.2)
    axes = figure.subplots()
    if len(curves) <= FEW:
        for curve in curves.values():
            axes.plot(GRID, curve.y, color="0.75", linewidth=0.8)
    for (name, curve), style in zip(averages.items(), ("-", "--")):
        axes.plot(GRID, curve.y, style, linewidth=2, label=f"{name} average, area {curve.area:.4f}")
    title = f"{y.capitalize()} by {x}" + (f", {len(curves)} classes in grey" if len(curves) <= FEW else "")
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02), title=title)
    axes.legend(loc="lower center" if x == "recall" else "lower right")
    axes.grid(alpha=0.3)
    return figure


def _calibration(report):
    calibration = report.calibration
    figure = new_figure(6.4, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middles = (np.arange(BINS) + 0.5) / BINS
    upper.bar(middles, np.nan_to_num(calibration.accuracy), width=0.9 / BINS, label="accuracy")
    upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect calibration")
    upper.plot(calibration.confidence, calibration.accuracy, "o", color="tab:orange", label="at the bin's mean")
    upper.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    upper.set_title(f"Reliability, expected calibration error {calibration.ece:.4f}")
    upper.legend(loc="upper left")
    lower.bar(middles, calibration.images, width=0.9 / BINS, color="0.6")
    lower.set(xlabel="probability of the predicted class", ylabel="images")
    return figure

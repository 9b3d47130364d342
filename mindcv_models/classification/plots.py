"""Pictures of a checkpoint's :class:`~mindcv_models.classification.details.Details`, by matplotlib, as PNG."""

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ..evaluation import new_figure, save_figure
from .details import BINS, GRID, Details

__all__ = ["plot_corruptions", "plot_details"]

# Up to so many classes, each has its name, its number or its curve in a picture.
FEW = 20


def plot_details(details: Details, folder: Path) -> List[Path]:
    """Write every picture of ``details`` to ``folder``."""
    figures = {
        "confusion_matrix.png": _confusion(details),
        "per_class.png": _per_class(details),
        "roc.png": _curves(details, details.roc, details.roc_averages, "false positive rate", "true positive rate"),
        "precision_recall.png": _curves(
            details, details.precision_recall, details.precision_recall_averages, "recall", "precision"
        ),
        "calibration.png": _calibration(details),
    }
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / name for name in figures]


def plot_corruptions(errors: Dict[Tuple[str, int], float], title: str, path: Path) -> None:
    """Write the errors by (corruption, severity), 0 to 1, as a table of accuracies in colour, with means by row."""
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
    for (i, j), share in np.ndenumerate(top1):
        if not np.isnan(share):
            colour = "black" if share > 60 else "white"
            axes.text(j, i, f"{share:.1f}", ha="center", va="center", color=colour, fontsize=8)
    save_figure(figure, path)


def _confusion(details):
    count = len(details.names)
    size = 6.4 if count > FEW else max(4.8, 2.5 + 0.4 * count)
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    totals = details.confusion.sum(1, keepdims=True)
    shares = details.confusion / np.maximum(totals, 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="share of the class's images", shrink=0.8)
    axes.set(xlabel="first guess", ylabel="class", title=f"Confusion matrix, {totals.sum()} images")
    if count <= FEW:
        axes.set_xticks(range(count), details.names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), details.names, parse_math=False)
        for (i, j), images in np.ndenumerate(details.confusion):
            if images:
                axes.text(j, i, images, ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black",
                          fontsize=8)  # fmt: skip
    return figure


def _per_class(details):
    order = details.present[np.argsort(details.per_class[details.present], kind="stable")]
    shares = 100 * details.per_class[order]
    few = len(order) <= 2 * FEW
    figure = new_figure(6.4, max(3, 1 + 0.22 * len(order)) if few else 4.8)
    axes = figure.subplots()
    if few:
        axes.barh(range(len(order)), shares)
        axes.set_yticks(range(len(order)), [details.names[i] for i in order], parse_math=False)
        axes.set(xlabel="top-1 (%)", xlim=(0, 100))
    else:
        axes.plot(np.arange(1, len(order) + 1), shares)
        axes.set(xlabel="classes, worst first", ylabel="top-1 (%)", ylim=(0, 102))
    axes.set_title(f"Accuracy by class, mean {shares.mean():.2f} %")
    return figure


def _curves(details, curves, averages, x, y):
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


def _calibration(details):
    calibration = details.calibration
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
    lower.set(xlabel="probability of the first guess", ylabel="images")
    return figure

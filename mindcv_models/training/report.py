"""What is left of a run to look at: its curves as PNG, and a page that sums it up."""

import csv
import logging
import platform
from dataclasses import asdict, fields
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Dict, List, Optional

import mindspore as ms
import numpy as np

from ..errors import InputError
from ..evaluation import new_figure, save_figure
from ..files import write_text
from ..options import RunOptions

__all__ = ["read_results", "write_report"]

logger = logging.getLogger(__name__)

# Each picture: its file, its title, the unit of its axis, and which columns of results.csv it shows.
PICTURES = (
    ("loss.png", "Loss", "loss", lambda name: "loss" in name.split("_")),
    ("accuracy.png", "Validation accuracy", "%", lambda name: _is_score(name)),
    ("learning_rate.png", "Learning rate at the end of each epoch", "learning rate", lambda name: name == "lr"),
    ("throughput.png", "Training throughput", "images/s", lambda name: name == "images_per_second"),
)


def read_results(path: Path) -> Dict[str, np.ndarray]:
    """The columns of ``results.csv``, NaN where a row has no number, and no column without any.

    Raises:
        InputError: there is no such file, or no epoch in it.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give the folder of a training run.") from error
    if not rows or "epoch" not in rows[0]:
        raise InputError(f"{path} has no epochs: give the folder of a training run that finished one.")
    columns = {name: np.array([_number(row[name]) for row in rows]) for name in rows[0]}
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def write_report(folder: Path, options: RunOptions, parameters: Optional[int] = None, devices: int = 1) -> Path:
    """Write ``report/`` into the folder of a run, from its ``results.csv``: pictures and a page.

    Without matplotlib there are no pictures, and the log says so.

    Args:
        options: of the run.
        parameters: of the network, to be told on the page.
        devices: that trained together.

    Returns:
        The page, ``summary.md``.

    Raises:
        InputError: the folder is not that of a run.
    """
    columns = read_results(folder / "results.csv")
    report = folder / "report"
    report.mkdir(exist_ok=True)
    pictures = _draw(columns, report)
    page = report / "summary.md"
    write_text(page, "\n".join(_page(options, columns, pictures, parameters, devices)) + "\n")
    return page


def _draw(columns, report) -> List[str]:
    drawn = []
    try:
        for file, title, unit, belongs in PICTURES:
            names = [name for name in columns if belongs(name)]
            if names:
                save_figure(_picture(columns, names, title, unit), report / file)
                drawn.append(file)
    except InputError as error:
        logger.warning("the report has no pictures: %s", error)
    return drawn


def _picture(columns, names, title, unit):
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    for name in names:
        shown = np.isfinite(columns[name])
        values = columns[name][shown] * (100 if unit == "%" else 1)
        marker = "o" if shown.sum() <= 30 else None
        axes.plot(columns["epoch"][shown], values, marker=marker, markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel=unit, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if unit in ("images/s", "learning rate"):
        top = max(np.nanmax(columns[name]) for name in names)
        axes.set_ylim(0, 1.05 * top if top > 0 else 1)  # an epoch of one step has no speed
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()
    return figure


def _page(options, columns, pictures, parameters, devices):
    yield f"# {options.model} on {options.dataset or 'an image folder'}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _facts(options, columns, parameters, devices):
        yield f"| {name} | {value} |"
    yield ""
    for file in pictures:
        yield f"![{Path(file).stem.replace('_', ' ')}]({file})"
    yield ""
    yield "## Options that differ from their defaults"
    yield ""
    yield "| option | value | default |"
    yield "|---|---|---|"
    defaults = asdict(type(options)())
    for f in fields(options):
        value = getattr(options, f.name)
        if value != defaults[f.name]:
            yield f"| `{f.name}` | {_shown(value)} | {_shown(defaults[f.name])} |"


def _facts(options, columns, parameters, devices):
    yield "classes", options.num_classes
    if parameters:
        yield "parameters", f"{parameters:,}"
    yield "epochs", f"{int(columns['epoch'][-1])} of {options.epoch_size}"
    if "seconds" in columns:
        yield "time", timedelta(seconds=round(float(np.nansum(columns["seconds"]))))
    if "images_per_second" in columns:
        yield "throughput", f"{np.nanmedian(columns['images_per_second']):.1f} images/s, median over epochs"
    for name in columns:
        if _is_score(name):
            best = int(np.nanargmax(columns[name]))
            yield f"best {name}", f"{100 * columns[name][best]:.2f} % in epoch {int(columns['epoch'][best])}"
    yield "last losses", ", ".join(f"{n} {v[-1]:.4f}" for n, v in columns.items() if "loss" in n.split("_"))
    mode = ("graph", "PyNative")[options.mode]
    yield "device", f"{devices} x {ms.get_context('device_target')}, {mode} mode, {options.amp_level}"
    yield "machine", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield "versions", ", ".join(f"{package} {version(package)}" for package in ("mindspore", "mindcv", "numpy"))


def _is_score(name):
    """Whether a column has shares of 0 to 1 that a validation found, such as top-1 or AP."""
    is_loss = name.startswith("train_") or "loss" in name.split("_")
    return not is_loss and name not in ("epoch", "lr", "images_per_second", "seconds")


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def _shown(value):
    text = " ".join(
        f"{v:g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, tuple) else [value])
    )
    return text.replace("|", "\\|") or "(empty)"

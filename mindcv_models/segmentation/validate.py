"""``validate.py`` for segmenters: the figures of checkpoints, over all classes and of each."""

import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from mindspore import nn

from ..cells import cast_network
from ..checkpoint import creator, load_weights
from ..evaluation import csv_table, markdown_table, new_figure, save_figure
from ..files import write_text
from ..process import output_folder, set_up
from ..reparameterize import reparameterize
from .folders import class_list, prepare
from .metrics import Scores
from .options import ValidateOptions
from .validator import SegmentationValidator, in_words

__all__ = ["build", "run"]

logger = logging.getLogger("validate")

Row = Dict[str, Any]
FEW = 40  # classes whose confusions can be drawn


def run(options: ValidateOptions) -> None:
    """Validate every checkpoint of the options.

    Raises:
        InputError: data or a checkpoint is missing, damaged or of something else.
    """
    folder = output_folder(options.report_dir, "report_dir") if options.report_dir else None
    world = set_up(options)
    options = prepare(options, world, training=False)
    names = class_list(options) or [f"class {k}" for k in range(options.num_classes)]
    rows = []
    for path in options.ckpt_path or [None]:
        network, name = build(options), path.stem if path else options.tagged_model
        if path:
            logger.info("loaded %s", load_weights(network, str(path), options.load_ema))
        network = reparameterize(network, inplace=True) if options.reparam else network
        network = cast_network(network, options.amp_level, options.amp_cast_list)
        validator = SegmentationValidator(network, options, world)
        scores = validator.scores()
        rows.append({"checkpoint": name, **scores.values, "images": scores.images})
        logger.info("%s: %s", name, in_words(scores))
        if folder and world.is_main:
            write_report(scores, names, folder / name)
    if len(rows) > 1:
        logger.info("%s", markdown_table(rows))
    if folder and world.is_main:
        write_text(folder / "results.csv", csv_table(rows))
        write_text(folder / "results.md", markdown_table(rows))


def build(options) -> nn.Cell:
    """The network of the options, with its own first weights or, if they ask for these, published ones."""
    return creator(options)(
        num_classes=options.num_classes, in_channels=options.in_channels,
        **options.network_options, **(options.model_kwargs or {}),
    )  # fmt: skip


def by_class(scores: Scores, names: List[str]) -> List[Row]:
    """IoU, accuracy and numbers of pixels of each class."""
    labelled, predicted = scores.matrix.sum(1).tolist(), scores.matrix.sum(0).tolist()
    columns = zip(names, scores.iou.tolist(), scores.accuracy.tolist(), labelled, predicted)
    return [
        {"class": name, "iou": iou, "accuracy": accuracy, "labelled_pixels": pixels, "predicted_pixels": found}
        for name, iou, accuracy, pixels, found in columns
    ]


def write_report(scores: Scores, names: List[str], folder: Path) -> None:
    """Write the figures of each class, the confusion matrix as CSV, and for a few classes its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = by_class(scores, names)
    write_text(folder / "per_class.csv", csv_table(rows))
    write_text(folder / "per_class.md", markdown_table(rows))
    matrix = [{"class": name, **dict(zip(names, counts))} for name, counts in zip(names, scores.matrix.tolist())]
    write_text(folder / "confusion_matrix.csv", csv_table(matrix))
    if len(names) <= FEW:
        plot_confusion(scores.matrix, names, folder / "confusion_matrix.png")


def plot_confusion(matrix: np.ndarray, names: List[str], path: Path) -> None:
    """Draw which share of each labelled class's pixels was predicted as what."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.4 + 0.42 * len(names)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="labelled", title="Pixels of each labelled class, %")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    save_figure(figure, path)

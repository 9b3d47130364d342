"""``validate.py`` for detectors: the figures of checkpoints, or of a file of results, and their reports."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Tuple

from mindspore import nn

from ..cells import cast_network
from ..checkpoint import load_weights
from ..data.loader import threads
from ..distributed import World
from ..errors import InputError
from ..evaluation import csv_table, markdown_table
from ..files import write_text
from ..models.registry import create_model
from ..process import output_folder, set_up
from .coco import CocoSet
from .data import eval_transform, read_split
from .draw import plot_curves
from .evaluate import Evaluation, GroundTruth, read_results
from .options import ValidateOptions
from .validator import DetectionValidator

__all__ = ["run"]

logger = logging.getLogger("validate")

Row = Dict[str, Any]


def run(options: ValidateOptions) -> None:
    """Validate every checkpoint of the options, or their file of results.

    Raises:
        InputError: data, a checkpoint or a file of results is missing, damaged or of something else.
    """
    folder = output_folder(options.report_dir, "report_dir") if options.report_dir else None
    world = set_up(options)
    data = read_split(options, "val")
    if options.num_classes not in (None, len(data.categories)):
        raise InputError(
            f"num_classes is {options.num_classes}, but there are {len(data.categories)} categories: leave it out."
        )
    rows = [_score(options, data, folder, world)] if options.results else _validate(options, data, folder, world)
    if len(rows) > 1:
        logger.info("%s", markdown_table(rows))
    if folder and world.is_main:
        write_text(folder / "results.csv", csv_table(rows))
        write_text(folder / "results.md", markdown_table(rows))


def build(options, categories: int) -> nn.Cell:
    """The network of the options for a data set of so many categories."""
    return create_model(
        options.model, num_classes=categories, in_channels=options.in_channels,
        **{**options.network_options, **(options.model_kwargs or {})},
    )  # fmt: skip


def _score(options, data: CocoSet, folder, world: World) -> Row:
    truth = GroundTruth(data)
    evaluation = truth.evaluate(read_results(options.results, truth))
    return _report(Path(options.results).stem, evaluation, data, folder, world)


def _validate(options, data: CocoSet, folder, world: World) -> List[Row]:
    network = build(options, len(data.categories))
    validator, rows = None, []
    for path in options.ckpt_path:
        logger.info("loaded %s", load_weights(network, str(path), options.averages))
        if validator is None:
            validator = DetectionValidator(
                cast_network(network, options.amp_level, options.amp_cast_list), data, eval_transform(options),
                options.batch_size, threads(options.num_parallel_workers), options.limits, world,
                options.skip_bad_images,
            )  # fmt: skip
        evaluation, results = validator.run()
        name = path.stem
        rows.append(_report(name, evaluation, data, folder, world))
        if options.save_results and world.is_main:
            target = Path(options.save_results)
            target = target if len(options.ckpt_path) == 1 else target.with_name(f"{target.stem}_{name}.json")
            write_text(target, json.dumps(results))
            logger.info("%d detections: %s", len(results), target)
    return rows


def _report(name: str, evaluation: Evaluation, data: CocoSet, folder, world: World) -> Row:
    names, classes = _by_class(evaluation, data)
    row = {"checkpoint": name, **{f"box_{key}": value for key, value in evaluation.values.items()}}
    logger.info("%s: %s", name, ", ".join(f"{key} {100 * value:.2f}" for key, value in list(row.items())[1:]))
    if folder and world.is_main:
        own = folder / name
        own.mkdir(exist_ok=True)
        write_text(own / "per_class.csv", csv_table(classes))
        write_text(own / "per_class.md", markdown_table(classes))
        plot_curves(evaluation, names, own)
    return row


def _by_class(evaluation: Evaluation, data: CocoSet) -> Tuple[List[str], List[Row]]:
    names = [category.name for category in data.categories]
    rows = [
        {"class": name, "box_ap": ap, "box_ap50": ap50, "box_ar": ar}
        for name, (ap, ap50, ar) in zip(names, evaluation.per_class.tolist())
    ]
    return names, rows

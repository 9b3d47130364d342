"""``validate.py`` for detectors: the figures of checkpoints, or of a file of results, and their reports."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List

from mindspore import nn

from ..cells import cast_network
from ..checkpoint import creator, load_weights
from ..data.loader import threads
from ..distributed import World
from ..errors import InputError
from ..evaluation import csv_table, markdown_table
from ..files import write_text
from ..process import output_folder, set_up
from .coco import CocoSet
from .data import eval_transform, read_split, with_data
from .draw import plot_curves
from .evaluate import Evaluation, GroundTruth, read_results
from .mask_validator import MaskValidator, check_masks
from .options import ValidateOptions
from .systems import system_of
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
    options = with_data(options, world)
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
    """The network of the options for a data set of so many categories, with published weights if they ask for these."""
    return creator(options)(
        num_classes=categories, in_channels=options.in_channels,
        **{**options.network_options, **(options.model_kwargs or {})},
    )  # fmt: skip


def _score(options, data: CocoSet, folder, world: World) -> Row:
    truth = GroundTruth(data)
    results = read_results(options.results, truth)
    kinds = DetectionValidator.kinds
    if results and all("segmentation" in row for row in results):
        check_masks(options.results, results, data)
        kinds = MaskValidator.kinds
    evaluations = {kind: truth.evaluate(results, name) for kind, name in kinds.items()}
    return _report(Path(options.results).stem, evaluations, data, folder, world)


def _validate(options, data: CocoSet, folder, world: World) -> List[Row]:
    network = build(options, len(data.categories))
    validator, rows = None, []
    for name in load_each(network, options):
        if validator is None:
            validator = system_of(options.model).validator(
                cast_network(network, options.amp_level, options.amp_cast_list), data, eval_transform(options),
                options.batch_size, threads(options.num_parallel_workers), options.limits, world,
                options.skip_bad_images,
            )  # fmt: skip
        evaluations, results = validator.run()
        rows.append(_report(name, evaluations, data, folder, world))
        if options.save_results and world.is_main:
            target = Path(options.save_results)
            target = target if len(options.ckpt_path) < 2 else target.with_name(f"{target.stem}_{name}.json")
            write_text(target, json.dumps(results))
            logger.info("%d detections: %s", len(results), target)
    return rows


def load_each(network: nn.Cell, options) -> Iterator[str]:
    """Names of what is to be validated, one after another, each loaded into ``network`` when it is its turn."""
    if options.wants_published:
        yield options.tagged_model
    for path in options.ckpt_path:
        logger.info("loaded %s", load_weights(network, str(path), options.load_ema))
        yield path.stem


def _report(name: str, evaluations: Dict[str, Evaluation], data: CocoSet, folder, world: World) -> Row:
    row = {"checkpoint": name}
    for kind, evaluation in evaluations.items():
        row.update({f"{kind}_{key}": value for key, value in evaluation.values.items()})
    logger.info("%s: %s", name, ", ".join(f"{key} {100 * value:.2f}" for key, value in list(row.items())[1:]))
    if folder and world.is_main:
        own = folder / name
        own.mkdir(exist_ok=True)
        classes = _by_class(evaluations, data)
        write_text(own / "per_class.csv", csv_table(classes))
        write_text(own / "per_class.md", markdown_table(classes))
        names = [category.name for category in data.categories]
        for kind, evaluation in evaluations.items():
            plot_curves(evaluation, names, own, kind)
    return row


def _by_class(evaluations: Dict[str, Evaluation], data: CocoSet) -> List[Row]:
    rows = [{"class": category.name} for category in data.categories]
    for kind, evaluation in evaluations.items():
        for row, (ap, ap50, ar) in zip(rows, evaluation.per_class.tolist()):
            row.update({f"{kind}_ap": ap, f"{kind}_ap50": ap50, f"{kind}_ar": ar})
    return rows

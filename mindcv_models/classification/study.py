"""Validation of several checkpoints with the same options, for one table."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
from mindspore import nn

from ..data.files import class_folders
from ..data.images import UnreadableImageError
from ..distributed import World
from ..errors import InputError
from ..evaluation import Row, csv_table, new_figure
from ..files import write_text
from .details import ClassificationReport
from .folders import class_names, prepare
from .imagenet import corruption_errors, read_real_labels, real_accuracy, resolve_targets
from .images import STANDARD_DATASETS, list_images
from .labels import split_root
from .options import ValidateOptions
from .plots import plot_corruptions, plot_report
from .predict import VIEWS, Predictions, Predictor
from .transforms import EvalTransform
from .validator import ClassificationValidator

__all__ = ["ValidationRun"]

logger = logging.getLogger(__name__)


class ValidationRun:
    """Validates networks with the options of ``validate.py``.

    Args:
        world: the processes that validate together; rank 0 writes.

    Raises:
        InputError: the data or the labels are invalid, or a library is missing.
    """

    def __init__(self, options: ValidateOptions, world: World):
        options.check()
        if options.looks_at_each_image and options.dataset.lower() in STANDARD_DATASETS:
            raise InputError(
                f"dataset is {options.dataset}, but benchmark, real_labels, tta and report_dir need an image folder: "
                "leave them out, or give data_dir one."
            )
        if options.report_dir:
            new_figure()  # a missing matplotlib is an error before the work starts
        self.real_labels = read_real_labels(options.real_labels) if options.real_labels else None
        self.world = world
        self.options = (
            replace(options, num_classes=1000) if options.benchmark else prepare(options, world, training=False)
        )
        if options.benchmark == "imagenet-c":
            # Its images are already cropped to the network's input size.
            self.options = replace(self.options, crop_pct=options.crop_pct or 1.0)
        self.transform = EvalTransform.resolve(self.options)

    def validator(self, network: nn.Cell) -> Callable[[str], Row]:
        """A function from a checkpoint's name to its row; it validates the current weights of ``network``."""
        options = self.options
        if not options.looks_at_each_image:
            validator = ClassificationValidator(network, options, self.world)
            return lambda name: _log(name, validator.metrics())
        predictor = Predictor(
            network, options.num_classes, self.transform, options.batch_size, options.num_parallel_workers,
            VIEWS[options.tta], options.upright, self.world,
        )  # fmt: skip
        if options.benchmark == "imagenet-c":
            return lambda name: self._corruptions(name, predictor)
        return lambda name: self._predictions(name, predictor)

    def _predictions(self, name, predictor) -> Row:
        predictions, names = self._predict(predictor, self.options)
        row = _log(name, predictions.metrics())
        if self.real_labels is not None:
            row["real_top1"], row["real_images"] = real_accuracy(predictions, self.real_labels)
        if self.options.report_dir and self.world.is_main:
            write_report(predictions, names, Path(self.options.report_dir, name))
        return row

    def _corruptions(self, name, predictor) -> Row:
        root = Path(self.options.data_dir)
        errors = {}
        for folder in sorted(p for p in root.glob("*/*") if p.is_dir() and p.name.isdecimal()):
            predictions, _ = self._predict(
                predictor, replace(self.options, data_dir=str(folder.parent), val_split=folder.name)
            )
            errors[folder.parent.name, int(folder.name)] = 1 - predictions.metrics().top1
            logger.info("%s, severity %s: error %.2f %%", folder.parent.name, folder.name,
                        100 * errors[folder.parent.name, int(folder.name)])  # fmt: skip
        if not errors:
            raise InputError(f"{root} has no folders <corruption>/<1 to 5>/<class>: set data_dir to ImageNet-C.")
        result = corruption_errors(errors)
        if self.options.report_dir and self.world.is_main:
            write_corruptions(errors, 1 - result["mean_error"], Path(self.options.report_dir, name))
        return {**{key: result.pop(key) for key in ("mean_error", "mce") if key in result}, **result}

    def _predict(self, predictor, options):
        root = split_root(options, options.val_split)
        classes = class_folders(root) if options.benchmark else class_names(options, options.val_split)
        targets = resolve_targets(classes, options.benchmark)
        images = list_images(options, options.val_split, classes)
        logits, bad = predictor.run(images.items)
        if bad and not options.skip_bad_images:
            raise UnreadableImageError(images.items[min(bad)], bad[min(bad)])
        good = np.setdiff1d(np.arange(len(images)), list(bad))
        if not len(good):
            raise InputError("no image of the validation split can be decoded: check data_dir.")
        if targets.outputs is not None:
            logits = logits[:, targets.outputs]
        labels = targets.labels[images.labels[good]]
        return Predictions(logits[good], labels, [images.items[i] for i in good]), targets.names


def write_report(predictions: Predictions, names: List[str], folder: Path) -> None:
    """Write ``report.json``, ``predictions.csv`` and the plots of one checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    report = ClassificationReport(predictions, names)
    write_text(folder / "report.json", json.dumps(report.as_json(), ensure_ascii=False) + "\n")
    top = report.probabilities.max(1)
    rows = [
        {"image": path, "class": names[label], "predicted": names[predicted], "probability": float(p)}
        for path, label, predicted, p in zip(predictions.paths, report.labels, report.predicted, top)
    ]
    write_text(folder / "predictions.csv", csv_table(rows))
    plot_report(report, folder)


def write_corruptions(errors: Dict[Tuple[str, int], float], mean_top1: float, folder: Path) -> None:
    """Write ``corruptions.csv`` and its plot for one checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"corruption": name, "severity": severity, "error": error} for (name, severity), error in errors.items()]
    write_text(folder / "corruptions.csv", csv_table(rows))
    plot_corruptions(errors, f"ImageNet-C, mean top-1 {100 * mean_top1:.2f} %", folder / "corruptions.png")


def _log(name, metrics) -> Row:
    logger.info("%s: %s", name, metrics)
    return {"top1": metrics.top1, f"top{metrics.k}": metrics.topk, "loss": metrics.loss, "images": metrics.images}

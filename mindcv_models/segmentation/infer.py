"""``infer.py`` for segmenters: label maps, in colour over the pictures and as PNG, and the shares of the classes."""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ..cells import cast_network
from ..checkpoint import load_weights
from ..data.files import free_name
from ..data.images import UnreadableImageError, decode
from ..data.loader import threads
from ..errors import InputError
from ..evaluation import csv_table
from ..options import System
from ..process import output_folder, set_up
from ..reparameterize import reparameterize
from .ade20k_classes import published_names
from .draw import draw_labels, write_png
from .folders import CLASS_FILE, read_class_names
from .inference import Inference
from .options import InferOptions
from .validate import build
from .validator import settings_of

__all__ = ["find_classes", "run"]

Row = Dict[str, Any]


def run(options: InferOptions, paths: Sequence[str]) -> int:
    """Predict the pictures at ``paths``; 1 if one could not be decoded."""
    drawn = output_folder(options.output_dir, "output_dir") if options.output_dir else None
    maps = output_folder(options.labels_dir, "labels_dir") if options.labels_dir else None
    set_up(System(options.mode, options.device_target))
    names = published_names(options) or find_classes(options.class_names, Path(options.ckpt_path), options.num_classes)
    options.num_classes = len(names)
    network = build(options)
    if options.ckpt_path:
        load_weights(network, options.ckpt_path, options.averages)
    network = reparameterize(network) if options.reparam else network
    network = cast_network(network, options.amp_level, options.amp_cast_list)
    inference = Inference(network, settings_of(options), options.batch_size, threads(options.num_parallel_workers))
    rows, failed = [], 0
    for begin in range(0, len(paths), options.batch_size):
        chunk = paths[begin : begin + options.batch_size]
        pictures = [decoded(path) for path in chunk]
        predicted = iter(inference([picture for picture in pictures if not isinstance(picture, str)]))
        for path, picture in zip(chunk, pictures):
            if isinstance(picture, str):
                print(f"cannot decode {path}: {picture}", file=sys.stderr)
                rows.append({"image": path, "error": picture})
                failed = 1
                continue
            labels = next(predicted)
            rows.append({"image": path, "classes": shares(labels, names)})
            if drawn:
                write_png(draw_labels(picture, labels, names, options.opacity), free_name(drawn, path))
            if maps:
                write_png(labels + options.first_label, free_name(maps, path))
    sys.stdout.write({"table": as_table, "json": as_json, "csv": as_csv}[options.format](rows))
    return failed


def decoded(path: str):
    """The pixels of a picture, upright, or why it cannot be decoded."""
    try:
        return decode(path)
    except UnreadableImageError as error:
        return error.reason


def find_classes(given: Optional[str], checkpoint: Path, count: Optional[int]) -> List[str]:
    """The names in the file ``given``, else of the run that wrote the checkpoint, else numbers.

    Raises:
        InputError: there are neither names nor ``count``, or they disagree.
    """
    path = Path(given) if given else checkpoint.parent / CLASS_FILE
    if not given and not path.is_file():
        if count is None:
            raise InputError(
                f"no {CLASS_FILE} beside {checkpoint}: give the names as class_names, or how many there are as "
                "num_classes."
            )
        return [f"class {k}" for k in range(count)]
    names = read_class_names(path)
    if count not in (None, len(names)):
        raise InputError(f"{path} has {len(names)} names, but num_classes is {count}: give the right one.")
    return names


def shares(labels: np.ndarray, names: Sequence[str]) -> List[Row]:
    """The classes in a label map, the largest first, with their shares of its pixels."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = [k for k in (-counts).argsort(kind="stable") if counts[k]]
    return [{"class": names[k], "label": int(k), "share": round(counts[k] / labels.size, 6)} for k in order]


def as_table(rows: List[Row]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['image']}: cannot be decoded" if "error" in row else row["image"])
        lines += [f"  {100 * c['share']:6.2f} %  {c['class']}" for c in row.get("classes", ())]
    return "\n".join(lines) + "\n"


def as_json(rows: List[Row]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def as_csv(rows: List[Row]) -> str:
    flat = [{"image": row["image"], **entry} for row in rows for entry in row.get("classes", ())]
    return csv_table(flat) if flat else "image,class,label,share\n"

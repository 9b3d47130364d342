"""``infer.py`` for segmenters: label maps, in colour over the pictures and as PNG, and the shares of the classes."""

import sys
from typing import Any, Dict, List, Sequence

from ..cells import cast_network
from ..checkpoint import load_weights
from ..data.class_names import class_names_of
from ..data.files import free_name
from ..data.images import decoded
from ..data.loader import threads
from ..evaluation import csv_text, json_text
from ..process import output_folder, set_up
from ..reparameterize import reparameterize
from .ade20k_classes import ADE20K_CLASSES
from .draw import draw_labels, write_png
from .inference import Inference
from .options import InferOptions
from .shares import shares
from .validate import build
from .validator import settings_of

__all__ = ["run"]

Row = Dict[str, Any]


def run(options: InferOptions, paths: Sequence[str]) -> int:
    """Predict the pictures at ``paths``; 1 if one could not be decoded."""
    drawn = output_folder(options.output_dir, "output_dir") if options.output_dir else None
    maps = output_folder(options.labels_dir, "labels_dir") if options.labels_dir else None
    set_up(options.alone)
    names = class_names_of(options, ADE20K_CLASSES)
    options.num_classes = len(names)
    network = build(options)
    if options.ckpt_path:
        load_weights(network, options.ckpt_path, options.load_ema)
    network = reparameterize(network, inplace=True) if options.reparam else network
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
    sys.stdout.write({"table": as_table, "json": json_text, "csv": as_csv}[options.format](rows))
    return failed


def as_table(rows: List[Row]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['image']}: cannot be decoded" if "error" in row else row["image"])
        lines += [f"  {100 * c['share']:6.2f} %  {c['class']}" for c in row.get("classes", ())]
    return "\n".join(lines) + "\n"


def as_csv(rows: List[Row]) -> str:
    flat = ({"image": row["image"], **entry} for row in rows for entry in row.get("classes", ()))
    return csv_text(("image", "class", "label", "share"), flat)

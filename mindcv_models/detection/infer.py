"""``infer.py`` for detectors: what is on images, as pictures, JSON and CSV."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..cells import cast_network
from ..checkpoint import load_weights
from ..data.class_names import class_names_of
from ..data.files import free_name
from ..data.images import decoded
from ..evaluation import csv_text, json_text
from ..files import atomic_write
from ..process import output_folder, set_up
from .coco import Annotated, Raw
from .coco_classes import COCO_CLASSES
from .data import eval_transform
from .draw import draw_detections
from .mask_predict import Instances
from .masks import run_lengths
from .options import InferOptions
from .predict import Detections
from .systems import system_of
from .transforms import EvalTransform
from .validate import build

__all__ = ["predict", "run"]

SIDES = ("x1", "y1", "x2", "y2")


def run(options: InferOptions, paths: Sequence[str]) -> int:
    """Predict the images at ``paths``; 1 if one could not be decoded."""
    folder = output_folder(options.output_dir, "output_dir") if options.output_dir else None
    set_up(options.alone)
    names = class_names_of(options, COCO_CLASSES, "{}")
    network = build(options, len(names))
    if options.ckpt_path:
        load_weights(network, options.ckpt_path, options.load_ema)
    network = cast_network(network, options.amp_level, options.amp_cast_list).set_train(False)
    limits = replace(options.limits, score=max(options.score_threshold, options.min_score))
    detector = system_of(options.model).validator.detector(network, limits)
    rows, failed = [], 0
    for path in paths:
        found, pixels, reason = predict(detector, path, eval_transform(options))
        if reason:
            print(f"cannot decode {path}: {reason}", file=sys.stderr)
            rows.append({"image": path, "error": reason})
            failed = 1
            continue
        rows.append({"image": path, "detections": as_rows(found, names, pixels.shape[:2])})
        if folder:
            save_picture(draw_detections(pixels, found, names), free_name(folder, path))
    sys.stdout.write(FORMATS[options.format](rows))
    if folder:
        for suffix in ("json", "csv"):
            with atomic_write(folder / f"detections.{suffix}") as partial:
                partial.write_text(FORMATS[suffix](rows), encoding="utf-8")
    return failed


def predict(detector: Callable, path: str, transform: EvalTransform
            ) -> Tuple[Optional[Detections], Optional[np.ndarray], str]:  # fmt: skip
    """What is on one image, upright: detections and pixels ``(H, W, 3)``; or why it cannot be decoded."""
    pixels = decoded(path)
    if isinstance(pixels, str):
        return None, None, pixels
    raw = Raw(Annotated(0, path, *pixels.shape[:2]), pixels)
    image, _, size, scale = transform(raw)
    (found,) = detector(image[None], size[None], scale[None], np.ones(1, bool))
    return found, pixels, ""


def as_rows(found: Detections, names: Sequence[str], size: Tuple[int, int]) -> List[Dict[str, Any]]:
    """The objects of an image of ``size`` (height, width); their masks as COCO's compressed run lengths."""
    rows = [
        {"class": names[label], "score": round(score, 4), "box": [round(side, 2) for side in box]}
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    ]
    if isinstance(found, Instances):
        for row, bitmap in zip(rows, found.bitmaps(size)):
            row["mask"] = run_lengths(bitmap)
    return rows


def save_picture(picture, path: Path) -> None:
    with atomic_write(path) as partial:
        picture.save(partial)


def as_csv(rows) -> str:
    flat = (
        {"image": row["image"], **found, **dict(zip(SIDES, found["box"]))}
        for row in rows
        for found in row.get("detections", ())
    )
    return csv_text(("image", "class", "score", *SIDES), flat)


def as_table(rows) -> str:
    lines = []
    for row in rows:
        lines.append(row["image"] if "error" not in row else f"{row['image']}: cannot be decoded")
        for found in row.get("detections", ()):
            box = " ".join(f"{side:7.1f}" for side in found["box"])
            lines.append(f"  {100 * found['score']:5.1f} %  {box}  {found['class']}")
    return "\n".join(lines) + "\n"


FORMATS = {"table": as_table, "json": json_text, "csv": as_csv}

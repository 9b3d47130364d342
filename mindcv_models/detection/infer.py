"""``infer.py`` for detectors: what is on images, as pictures, JSON and CSV."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..cells import cast_network
from ..checkpoint import load_weights
from ..data.files import free_name
from ..data.images import UnreadableImageError, decode
from ..errors import InputError
from ..files import atomic_write
from ..options import System
from ..process import output_folder, set_up
from .coco import Annotated, Raw
from .coco_classes import published_names
from .data import eval_transform
from .draw import draw_detections
from .mask_predict import Instances
from .masks import run_lengths
from .options import InferOptions
from .predict import Detections
from .systems import system_of
from .transforms import EvalTransform
from .validate import build

__all__ = ["find_classes", "predict", "run"]

COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2")


def run(options: InferOptions, paths: Sequence[str]) -> int:
    """Predict the images at ``paths``; 1 if one could not be decoded."""
    folder = output_folder(options.output_dir, "output_dir") if options.output_dir else None
    set_up(System(options.mode, options.device_target))
    names = published_names(options) or find_classes(options.class_names, Path(options.ckpt_path), options.num_classes)
    network = build(options, len(names))
    if options.ckpt_path:
        load_weights(network, options.ckpt_path, options.averages)
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
    try:
        pixels = decode(path)
    except UnreadableImageError as error:
        return None, None, error.reason
    raw = Raw(Annotated(0, path, *pixels.shape[:2]), pixels)
    image, _, size, scale = transform(raw)
    (found,) = detector(image[None], size[None], scale[None], np.ones(1, bool))
    return found, pixels, ""


def find_classes(given: Optional[str], checkpoint: Path, count: Optional[int]) -> List[str]:
    """The names of the classes: of a text file, of the run that wrote the checkpoint, or their numbers.

    Raises:
        InputError: there are none, or not as many as ``count``.
    """
    path = Path(given) if given else checkpoint.parent / "classes.txt"
    if path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if count not in (None, len(names)):
            raise InputError(f"{path} has {len(names)} names, but num_classes is {count}: give the right one.")
        return names
    if given:
        raise InputError(f"no file at {given}: set class_names to a text file with a name a line.")
    if count is None:
        raise InputError(
            f"no classes.txt beside {checkpoint}: give the names as class_names, or how many there are as num_classes."
        )
    return [str(k) for k in range(count)]


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


def as_json(rows) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def as_csv(rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        for found in row.get("detections", ()):
            writer.writerow([row["image"], found["class"], found["score"], *found["box"]])
    return text.getvalue()


def as_table(rows) -> str:
    lines = []
    for row in rows:
        lines.append(row["image"] if "error" not in row else f"{row['image']}: cannot be decoded")
        for found in row.get("detections", ()):
            box = " ".join(f"{side:7.1f}" for side in found["box"])
            lines.append(f"  {100 * found['score']:5.1f} %  {box}  {found['class']}")
    return "\n".join(lines) + "\n"


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv}

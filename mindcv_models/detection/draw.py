"""Pictures of what a detector finds, and of how well."""

from pathlib import Path
from typing import Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluation import new_figure, save_figure
from .evaluate import RECALLS, Evaluation
from .mask_predict import Instances
from .predict import Detections

__all__ = ["colour_of", "draw_detections", "plot_curves"]

GOLDEN = 0.618033988749895  # of the colour circle, from one class to the next


def colour_of(label: int) -> Tuple[int, int, int]:
    """The colour of a class: neighbouring numbers look different."""
    hue = label * GOLDEN % 1 * 6
    ramps = [abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)]
    return tuple(int(55 + 200 * min(max(ramp, 0), 1)) for ramp in ramps)


def draw_detections(pixels: np.ndarray, found: Detections, names: Sequence[str], least: float = 0.0) -> Image.Image:
    """An image ``(H, W, 3)`` with what is in it: boxes, names and scores, and masks where there are any.

    The best ones are on top; masks let half of the image through.

    Args:
        least: scores below it are not drawn.
    """
    if isinstance(found, Instances):
        pixels = with_masks(pixels, found, least)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(picture)
    thick = max(1, round(min(picture.size) / 300))
    font = ImageFont.load_default(max(10, round(min(picture.size) / 40)))
    for box, score, label in reversed(list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()))):
        if score >= least:
            draw.rectangle(box, outline=colour_of(label), width=thick)
            write_label(draw, font, box, f"{names[label]} {score:.2f}", colour_of(label), picture.size)
    return picture


def with_masks(pixels: np.ndarray, found: Instances, least: float) -> np.ndarray:
    """The image with its objects' masks, half as strong as their colours."""
    pixels = pixels.copy()
    bitmaps = found.bitmaps(pixels.shape[:2])
    for bitmap, score, label in reversed(list(zip(bitmaps, found.scores, found.labels.tolist()))):
        if score >= least:
            pixels[bitmap] = (pixels[bitmap].astype(np.uint16) + np.array(colour_of(label), np.uint16)) // 2
    return pixels


def write_label(draw, font, box, text, colour, size) -> None:
    """Write ``text`` above the box, or within it where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 2, bottom - top + 2
    x = min(max(box[0], 0), max(size[0] - width, 0))
    y = box[1] - height if box[1] >= height else max(box[1], 0)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    ink = (0, 0, 0) if sum(colour) > 330 else (255, 255, 255)
    draw.text((x + 1 - left, y + 1 - top), text, fill=ink, font=font)


def plot_curves(evaluation: Evaluation, names: Sequence[str], folder: Path, kind: str = "box", few: int = 20) -> None:
    """Write the precision-recall curves of a data set, at several IoUs, and those of each class at 0.5.

    Args:
        kind: "box" or "mask": the beginning of the files' names.
        few: so many classes at most get a curve of their own.
    """
    figure = new_figure()
    axes = figure.subplots()
    for threshold in (0.5, 0.75, 0.9):
        axes.plot(RECALLS, evaluation.curve(threshold), label=f"IoU {threshold}")
    axes.plot(RECALLS, evaluation.curve(), "k--", label="mean of IoU 0.5 to 0.95")
    _finish(axes, f"{kind} AP {100 * evaluation.values['ap']:.1f} %")
    save_figure(figure, folder / f"{kind}_precision_recall.png")
    known = [k for k in range(len(names)) if not np.isnan(evaluation.per_class[k, 0])]
    if not 1 < len(known) <= few:
        return
    figure = new_figure()
    axes = figure.subplots()
    for k in known:
        colour = np.array(colour_of(k)) / 255
        axes.plot(RECALLS, evaluation.precision[0, :, k], color=colour, label=names[k])
    _finish(axes, f"{kind} AP50 {100 * evaluation.values['ap50']:.1f} %")
    save_figure(figure, folder / f"{kind}_precision_recall_classes.png")


def _finish(axes, title) -> None:
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)

"""Label maps in colour, over their pictures, with a legend."""

from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write

__all__ = ["draw_labels", "palette", "write_png"]

BAND, MARGIN = 20, 6  # pixels of a line of the legend, and around it


def palette(classes: int) -> np.ndarray:
    """A colour for every class, ``(classes, 3)`` uint8 RGB; neighbours in the list look unlike each other."""
    index = np.arange(classes)
    hue = index * 0.618034 % 1 * 360  # the golden ratio keeps hues apart, however many there are
    saturation = np.array([1, 0.6, 0.8])[index % 3]
    value = np.array([1, 0.8, 0.6])[index // 3 % 3]
    hsv = np.stack([hue, saturation, value], -1).astype(np.float32)
    return np.round(255 * cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]).astype(np.uint8)


def draw_labels(picture: np.ndarray, labels: np.ndarray, names: Sequence[str], opacity: float = 0.6) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB with the colours of its classes ``(H, W)`` over it, and a legend to the right.

    The legend has the classes that are in the picture, the largest first, with their shares of it.
    """
    colours = palette(len(names))
    over = (1 - opacity) * picture + opacity * colours[labels]
    edges = np.zeros(labels.shape, bool)  # a dark line where two classes meet
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    over[edges] *= 0.5
    counts = np.bincount(labels.ravel(), minlength=len(names))
    found = [k for k in (-counts).argsort(kind="stable") if counts[k]]
    entries = [(colours[k], f"{names[k]}  {100 * counts[k] / labels.size:.1f} %") for k in found]
    return beside(np.round(over).astype(np.uint8), entries)


def beside(picture: np.ndarray, entries) -> np.ndarray:
    """A picture, enlarged to be looked at if it is small, and a legend of colours and texts to its right."""
    factor = max(1, round(384 / max(picture.shape[:2])))
    picture = picture.repeat(factor, 0).repeat(factor, 1)
    font = ImageFont.load_default(13)
    rows = max(1, (picture.shape[0] - 2 * MARGIN) // BAND)
    if len(entries) > rows:  # the smallest classes do not fit
        entries = [*entries[: rows - 1], (None, f"{len(entries) - rows + 1} more")]
    width = BAND + 3 * MARGIN + max(int(font.getlength(text)) for _, text in entries)
    height = max(picture.shape[0], 2 * MARGIN + BAND)
    canvas = Image.new("RGB", (picture.shape[1] + width, height), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(canvas)
    for row, (colour, text) in enumerate(entries):
        x, y = picture.shape[1] + MARGIN, MARGIN + row * BAND
        if colour is not None:
            pen.rectangle((x, y + 2, x + BAND - 6, y + BAND - 4), fill=tuple(colour.tolist()), outline="black")
        pen.text((x + BAND, y), text, fill="black", font=font)
    return np.asarray(canvas)


def write_png(array: np.ndarray, path: Path) -> None:
    """Write a picture ``(H, W, 3)`` uint8 or a label map ``(H, W)``, of 8 bits if they suffice, else of 16."""
    if array.ndim == 2:
        array = array.astype(np.uint8 if array.max(initial=0) < 256 else np.uint16)
    with atomic_write(path) as partial:
        Image.fromarray(array).save(partial, format="PNG")

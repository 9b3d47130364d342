"""From a picture to a model's inputs, and from its outputs to what is said of the picture; a class for each task."""

import base64
import io
from typing import Any, Dict, List, NamedTuple, Tuple

import cv2
import numpy as np
from PIL import Image

from ..classification.ranking import best, probabilities
from ..data.crop import CropTransform
from ..data.geometry import fitted_size, normalise, pad_bottom_right, resize_image
from ..detection.masks import run_lengths
from ..detection.paste import paste_shares
from ..errors import InputError
from ..segmentation.shares import shares
from .model_file import ModelFile, Tensors

__all__ = ["Asked", "Classes", "Labels", "Objects", "task_of"]

Row = Dict[str, Any]


class Asked(NamedTuple):
    """What a request wants to be told: so many classes, and objects of this score at least."""

    topk: int = 5
    min_score: float = 0.3


def task_of(file: ModelFile):
    """How the file's model is fed and read.

    Raises:
        InputError: its outputs need more than is done here.
    """
    shape = file.outputs[0].shape
    if file.outputs[0].name == "detections":
        return Objects(file)
    if len(shape) == 2 and len(file.outputs) == 1:
        return Classes(file)
    if len(shape) in (3, 4) and len(file.outputs) == 1 and shape[-2:] == file.size:
        return Labels(file)
    raise InputError(
        "the model gives no classes, final boxes or maps of classes: export a detector with --detections True."
    )


def class_names(file: ModelFile, count: int) -> List[str]:
    return list(file.about.get("class_names") or (f"class {k}" for k in range(count)))


class Classes:
    """Classifiers: the most probable classes, as ``infer.py`` tells them."""

    kind = "classes"
    quick = True  # an answer takes no thread

    def __init__(self, file: ModelFile):
        about, size = file.about, tuple(file.about["image_size"])
        self.transform = CropTransform(
            size[0] if size[0] == size[1] else size, about["crop_pct"], about["crop_mode"], about["interpolation"],
            tuple(about["mean"]), tuple(about["std"]),
        )  # fmt: skip
        self.input = file.inputs[0].name
        self.names = class_names(file, file.outputs[0].shape[1])

    def prepare(self, pixels: np.ndarray) -> Tensors:
        """A picture ``(H, W, 3)`` uint8 RGB as a batch of one."""
        return {self.input: self.transform(pixels)[None]}

    def answer(self, outputs: List[np.ndarray], size: Tuple[int, int], asked: Asked) -> Row:
        """What is said of a picture of ``size``, height and width."""
        return {"classes": best(probabilities(outputs[0][0]), self.names, asked.topk)}


class Objects:
    """Detectors: boxes with scores, and masks as COCO's compressed run lengths."""

    kind = "objects"
    quick = False

    def __init__(self, file: ModelFile):
        self.size = file.size
        self.scale = tuple(file.about.get("img_scale") or self.size)
        self.mean, self.std = file.about["mean"], file.about["std"]
        self.names = list(file.about.get("class_names") or ())

    def fitted(self, height: int, width: int) -> Tuple[int, int]:
        """Height and width of a resized picture: as ``infer.py`` does, or smaller, so that it fits into the file's."""
        size = fitted_size(height, width, self.scale)
        if size[0] <= self.size[0] and size[1] <= self.size[1]:
            return size
        factor = min(self.size[0] / height, self.size[1] / width)
        return tuple(max(1, min(int(side * factor + 0.5), most)) for side, most in zip((height, width), self.size))

    def prepare(self, pixels: np.ndarray) -> Tensors:
        height, width = self.fitted(*pixels.shape[:2])
        image = normalise(resize_image(pixels, height, width), self.mean, self.std)
        scale = width / pixels.shape[1], height / pixels.shape[0]
        return {
            "images": pad_bottom_right(image, *self.size)[None],
            "sizes": np.float32([[height, width]]),
            "scales": np.float32([scale]),
        }

    def answer(self, outputs: List[np.ndarray], size: Tuple[int, int], asked: Asked) -> Row:
        rows = outputs[0]
        kept = np.flatnonzero(rows[:, 5] >= asked.min_score)
        kept = kept[(-rows[kept, 5]).argsort(kind="stable")]
        found = [
            {
                "class": self.names[int(label)] if int(label) < len(self.names) else str(int(label)),
                "label": int(label), "score": round(score, 6), "box": [round(side, 3) for side in box],
            }
            for *box, score, label in rows[kept, 1:].tolist()
        ]  # fmt: skip
        if len(outputs) > 1:
            for row, k in zip(found, kept):  # one at a time: a picture's masks may be large
                (bitmap,) = paste_shares(outputs[1][k : k + 1], rows[k : k + 1, 1:5], size)
                row["mask"] = run_lengths(bitmap)
        return {"detections": found, "height": size[0], "width": size[1]}


class Labels:
    """Segmenters: the shares of the classes, and the class of every pixel as a PNG."""

    kind = "labels"
    quick = False

    def __init__(self, file: ModelFile):
        self.size, self.input = file.size, file.inputs[0].name
        self.mean, self.std = file.about["mean"], file.about["std"]
        self.names = class_names(file, file.outputs[0].shape[1] if len(file.outputs[0].shape) == 4 else 65536)

    def prepare(self, pixels: np.ndarray) -> Tensors:
        return {self.input: normalise(resize_image(pixels, *self.size), self.mean, self.std)[None]}

    def answer(self, outputs: List[np.ndarray], size: Tuple[int, int], asked: Asked) -> Row:
        labels = label_map(outputs[0][0], size)
        return {
            "classes": shares(labels, self.names), "height": size[0], "width": size[1], "labels": png(labels)
        }  # fmt: skip


def label_map(output: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """The classes ``(H, W)`` of a picture of ``size`` from logits ``(classes, h, w)``, or from classes ``(h, w)``."""
    if output.ndim == 2:
        return cv2.resize(output.astype(np.uint16), size[::-1], interpolation=cv2.INTER_NEAREST)
    best, labels = None, None
    for k, plane in enumerate(output):
        plane = plane if plane.shape == size else cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        if best is None:
            best, labels = plane.copy(), np.zeros(size, np.uint16)
            continue
        larger = plane > best
        np.copyto(best, plane, where=larger)
        labels[larger] = k
    return labels


def png(labels: np.ndarray) -> str:
    """A label map as a PNG of 8 bits, or of 16 where it needs them, in base64."""
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8) if labels.max() < 256 else labels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")

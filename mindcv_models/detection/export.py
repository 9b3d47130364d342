"""``export.py`` for detectors: raw outputs, or an ONNX file that gives final boxes; verified before it is kept."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
from mindspore import nn

from .. import backend
from ..checkpoint import load_weights
from ..data.class_names import class_names_of
from ..errors import InputError, RunError
from ..export import METADATA_KEY, Preparation, export, to_onnx
from ..export.check import example_images, run_network
from ..export.files import atomic_export, model_of
from ..export.options import ExportedFile
from ..input_size import explain_size_errors
from ..models.mask_rcnn import MaskRCNN
from ..options import MAX_SIDE, option, show
from ..reparameterize import reparameterize
from .anchors import RPN, retinanet_anchors
from .coco_classes import COCO_CLASSES
from .data import preparation
from .mask_predict import MaskDetector
from .onnx_detections import add_detections
from .onnx_instances import add_instances
from .options import Finding, Head, Scaling
from .predict import Limits, detect, sigmoid
from .validate import build

__all__ = ["DetectionsDifferError", "ExportOptions", "export_detections", "run"]

logger = logging.getLogger("export")

PIXELS = 1e-2  # largest difference of a box
MASKS = 1e-2  # and of a mask, which goes from 0 to 1


class DetectionsDifferError(RunError):
    """The detections of an exported file differ from those of its network."""


@dataclass
class ExportOptions(Head, Scaling, Finding, ExportedFile):
    """The options of ``export.py`` for detectors."""

    title = "File"

    image_resize: Tuple[int, ...] = option(
        (800, 1344), "height and width of the padded images, multiples of 32", at_least=32, at_most=MAX_SIDE,
        example="800 1344",
    )  # fmt: skip
    detections: bool = option(
        False, "the ONNX file decodes and suppresses too, and gives final boxes, rather than the network's outputs"
    )
    class_names: Optional[str] = option(
        None, "text file with a name a line; default: the run's, else numbers", path=True
    )

    def check(self) -> None:
        sides = self.image_resize
        if len(sides) not in (1, 2) or any(side % 32 for side in sides):
            raise InputError(f"image_resize is {show(list(sides))}, but must be multiples of 32, such as 800 1344.")
        if self.detections and Path(self.output).suffix != ".onnx":
            raise InputError(f"detections is True, but output is {self.output}: give it the ending .onnx.")
        if self.detections and self.batch_size is not None:
            raise InputError("batch_size is given, but with detections a file takes any: leave it out.")


def run(options: ExportOptions) -> None:
    """Export what the options say."""
    names = class_names_of(options, COCO_CLASSES, "{}")
    size = options.image_resize[0], options.image_resize[-1]
    own, path = preparation(options), Path(options.output)
    described = Preparation(options.model, size, 1.0, "fit", "bilinear", own.mean, own.std, tuple(names))
    with backend.portable_form():
        network = build(options, len(names))
        if options.ckpt_path:
            logger.info("loaded %s", load_weights(network, options.ckpt_path, options.load_ema))
        with explain_size_errors([(options.model, network)], size):
            if options.detections:
                images = example_images(described, 3)
                metadata = {**described.metadata(), "img_scale": list(options.img_scale)}
                pixels = export_detections(network, path, images, options.limits, metadata, options.reparam)
                logger.info("%s: boxes within %.1e pixels of the network's", path, pixels)
            else:
                difference = export(network, path, described, options.batch_size, options.reparam)
                logger.info("%s: outputs within %.1e of the network's", path, difference)


def export_detections(network: nn.Cell, path: Path, images: np.ndarray, limits: Limits, metadata: Dict[str, Any],
                      reparam: bool = True) -> float:  # fmt: skip
    """Write a detector with decoding and suppression as ONNX, and verify it on ``images``.

    Build the network within ``backend.portable_form()``. The file is for any batch size, and for images of the size of
    ``images (N, C, H, W)``. :func:`mindcv_models.detection.onnx_detections.add_detections` says what it takes.

    Returns:
        The largest difference between boxes of the file and of the network, in pixels.

    Raises:
        InputError: a primitive that ONNX export does not support, or a folder that is not writable or full.
        DetectionsDifferError: the detections differ. An earlier file at ``path`` is unchanged.
    """
    if isinstance(network, MaskRCNN):
        return export_instances(network, path, images, limits, metadata, reparam)
    import onnx

    height, width = images.shape[2:]
    anchors = retinanet_anchors(network.anchor_scale)
    with atomic_export(path) as partial:
        logits, deltas = run_network(network, images)
        model = model_of(to_onnx(reparameterize(network) if reparam else network, (None, *images.shape[1:])))
        model = add_detections(model, anchors, height, width, limits)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
        partial.write_bytes(model.SerializeToString())
        return _verify(partial, images, logits, deltas, anchors, limits)


def export_instances(network: MaskRCNN, path: Path, images: np.ndarray, limits: Limits, metadata: Dict[str, Any],
                     reparam: bool = True) -> float:  # fmt: skip
    """What :func:`export_detections` does for a Mask R-CNN; see :func:`onnx_instances.add_instances`."""
    import onnx
    import onnxruntime

    height, width = images.shape[2:]
    anchors = replace(RPN, scales=(network.anchor_scale,))
    detector, largest = MaskDetector(network.set_train(False), limits), 0.0
    cases = []
    for given in _inputs(images):
        cases.append((given, detector(*given.values(), np.ones(len(images), bool))))
    with atomic_export(path) as partial:
        model = model_of(to_onnx(reparameterize(network) if reparam else network, (None, *images.shape[1:])))
        model = add_instances(model, network, anchors, height, width, limits)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
        partial.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        for given, expected in cases:
            rows, masks = session.run(None, given)
            for k, found in enumerate(expected):
                own = rows[:, 0] == k
                largest = max(largest, _difference(rows[own], found))
                _compare_masks(rows[own], masks[own], found)
    return largest


def _compare_masks(rows, masks, found) -> None:
    """Compare each mask with that of the detection whose box is nearest."""
    for row, mask in zip(rows, masks):
        nearest = np.abs(found.boxes - row[1:5]).max(1) + 1e6 * (found.labels != row[6])
        difference = np.abs(sigmoid(found.masks[nearest.argmin()]) - mask).max()
        if not difference <= MASKS:
            raise DetectionsDifferError(
                f"a mask of the exported file differs from the network's by {difference:.2g}: no file was kept; report "
                "the versions of mindspore, onnx and onnxruntime."
            )


def _inputs(images):
    """Whole images, and smaller ones with padding whose scales differ."""
    height, width = images.shape[2:]
    for size, scale in (((height, width), (1.0, 1.0)), ((height - 7, width - 13), (1.5, 1.25))):
        sides = [np.tile(np.float32(each), (len(images), 1)) for each in (size, scale)]
        yield {"images": images, "sizes": sides[0], "scales": sides[1]}


def _verify(path, images, logits, deltas, anchors, limits) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes_of_maps = anchors.sizes(*images.shape[2:])
    largest = 0.0
    for given in _inputs(images):
        size, scale = given["sizes"][0], given["scales"][0]
        (rows,) = session.run(None, given)
        for k in range(len(images)):
            expected = detect(
                logits[k], deltas[k], anchors.all(sizes_of_maps), anchors.counts(sizes_of_maps), size, scale, limits
            )
            largest = max(largest, _difference(rows[rows[:, 0] == k], expected))
    return largest


def _difference(rows, expected) -> float:
    """The largest difference of boxes; detections whose scores are about equal may have changed places."""
    if len(rows) != len(expected.boxes) or not np.allclose(rows[:, 5], expected.scores, rtol=0, atol=1e-4):
        raise DetectionsDifferError(
            f"the exported file finds {len(rows)} objects where the network finds {len(expected.boxes)}, or with other "
            "scores: no file was kept; report the versions of mindspore, onnx and onnxruntime."
        )
    difference = 0.0
    for row in rows:
        near = (np.abs(expected.scores - row[5]) <= 2e-4) & (expected.labels == row[6])
        differences = np.abs(expected.boxes[near] - row[1:5]).max(1, initial=0)
        difference = max(difference, float(differences.min(initial=np.inf)))
    if not difference <= PIXELS:
        raise DetectionsDifferError(
            f"a box of the exported file differs from the network's by {difference:.2g} pixels: no file was kept; "
            "report the versions of mindspore, onnx and onnxruntime."
        )
    return difference

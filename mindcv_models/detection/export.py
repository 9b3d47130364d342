"""A detector as one ONNX file that gives final boxes, verified before it is kept."""

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
from mindspore import nn

from ..errors import RunError
from ..export import METADATA_KEY, to_onnx
from ..export.check import run_network
from ..export.files import atomic_export, model_of
from ..reparameterize import reparameterize
from .anchors import retinanet_anchors
from .onnx_detections import add_detections
from .predict import Limits, detect

__all__ = ["DetectionsDifferError", "export_detections"]

PIXELS = 1e-2  # largest difference of a box


class DetectionsDifferError(RunError):
    """The detections of an exported file differ from those of its network."""


def export_detections(network: nn.Cell, path: Path, images: np.ndarray, limits: Limits, metadata: Dict[str, Any]
                      ) -> float:  # fmt: skip
    """Write a detector with decoding and suppression as ONNX, and verify it on ``images``.

    Build the network within ``backend.portable_form()``; the file has its inference form, for any batch size and for
    images of the size of ``images (N, C, H, W)``. See :func:`mindcv_models.detection.onnx_detections.add_detections`
    for what it takes and gives.

    Returns:
        The largest difference between boxes of the file and of the network, in pixels.

    Raises:
        InputError: a primitive that ONNX export does not support, or a folder that is not writable or full.
        DetectionsDifferError: the detections differ. An earlier file at ``path`` is unchanged.
    """
    import onnx

    height, width = images.shape[2:]
    anchors = retinanet_anchors(network.anchor_scale)
    with atomic_export(path) as partial:
        logits, deltas = run_network(network, images)
        model = model_of(to_onnx(reparameterize(network), (None, *images.shape[1:])))
        model = add_detections(model, anchors, height, width, limits)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
        partial.write_bytes(model.SerializeToString())
        return _verify(partial, images, logits, deltas, anchors, limits)


def _verify(path, images, logits, deltas, anchors, limits) -> float:
    """Compare on whole images, and on smaller ones with padding whose scales differ."""
    import onnxruntime

    height, width = images.shape[2:]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes_of_maps = anchors.sizes(height, width)
    largest = 0.0
    for size, scale in (((height, width), (1.0, 1.0)), ((height - 7, width - 13), (1.5, 1.25))):
        count = len(images)
        given = {
            "images": images,
            "sizes": np.tile(np.float32(size), (count, 1)),
            "scales": np.tile(np.float32(scale), (count, 1)),
        }
        (rows,) = session.run(None, given)
        for k in range(count):
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

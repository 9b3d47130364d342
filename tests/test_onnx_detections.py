"""Decoding and suppression within an ONNX file, against the functions that do the same in NumPy."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mindcv_models.detection.anchors import RETINANET
from mindcv_models.detection.onnx_detections import add_detections
from mindcv_models.detection.predict import Limits, detect

SHAPE = (64, 96)
SIZES = RETINANET.sizes(*SHAPE)
ANCHORS, CLASSES = sum(RETINANET.counts(SIZES)), 3


def session(limits):
    """A model whose raw outputs are its inputs."""
    shapes = {"images": ["batch", ANCHORS, CLASSES], "moves": ["batch", ANCHORS, 4]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(f"raw_{name}", TensorProto.FLOAT, shapes[name]) for name in shapes]
    nodes = [helper.make_node("Identity", [name], [f"raw_{name}"]) for name in shapes]
    graph = helper.make_graph(nodes, "raw", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = add_detections(model, RETINANET, *SHAPE, limits)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("limits", [Limits(), Limits(0.3, 0.4, 40, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_detections_are_those_of_numpy(limits, batch):
    rng = np.random.default_rng(batch)
    logits = rng.normal(-4, 2, (batch, ANCHORS, CLASSES)).astype(np.float32)
    deltas = rng.normal(0, 0.5, (batch, ANCHORS, 4)).astype(np.float32)
    logits[-1] -= 20 * (batch > 1)  # nothing in the last image
    sizes = np.array([[60, 90], [64, 96], [40, 30]], np.float32)[:batch]
    scales = np.array([[1.5, 1.25], [1, 1], [2, 2]], np.float32)[:batch]
    given = {"images": logits, "moves": deltas, "sizes": sizes, "scales": scales}
    (rows,) = session(limits).run(None, given)
    for k in range(batch):
        own = rows[rows[:, 0] == k]
        expected = detect(
            logits[k], deltas[k], RETINANET.all(SIZES), RETINANET.counts(SIZES), sizes[k], scales[k], limits
        )
        assert len(own) == len(expected.boxes)
        np.testing.assert_array_equal(own[:, 6], expected.labels)
        np.testing.assert_allclose(own[:, 5], expected.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(own[:, 1:5], expected.boxes, rtol=0, atol=1e-3)
    assert (np.diff(rows[:, 0]) >= 0).all()

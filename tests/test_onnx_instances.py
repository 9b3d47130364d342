"""Regions, second stage, suppression and masks within an ONNX file, against the graphs of MindSpore."""

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import nn
from onnx import TensorProto, helper

from mindcv_models.detection.anchors import RPN
from mindcv_models.detection.mask_predict import MaskDetector
from mindcv_models.detection.onnx_instances import add_instances
from mindcv_models.detection.predict import Limits, sigmoid
from mindcv_models.models.mask_rcnn import RoIHead

SHAPE, CLASSES, CHANNELS = (64, 96), 3, 8
SIZES = RPN.sizes(*SHAPE)
COUNTS = RPN.counts(SIZES)


class FirstStage(nn.Cell):
    """A network whose first stage gives the same outputs for any images."""

    anchor_scale = 8.0

    def __init__(self, outputs):
        super().__init__()
        self.outputs = [ms.Tensor(each) for each in outputs]
        self.roi_head = RoIHead(CLASSES, CHANNELS)

    def construct(self, _images):
        return tuple(self.outputs[:5]), tuple(self.outputs[5:10]), tuple(self.outputs[10:])


def first_outputs(batch):
    """Logits and deltas of each level, and maps."""
    rng = np.random.default_rng(batch)
    logits = [rng.normal(0, 2, (batch, count)) for count in COUNTS]
    deltas = [rng.normal(0, 0.4, (batch, count, 4)) for count in COUNTS]
    maps = [rng.normal(0, 1, (batch, CHANNELS, *size)) for size in SIZES]
    return [each.astype(np.float32) for each in (*logits, *deltas, *maps)]


def network_of(outputs):
    """Heads with weights large enough that regions differ in class and mask."""
    network = FirstStage(outputs).set_train(False)
    rng = np.random.default_rng(9)
    for parameter in network.get_parameters():
        scale = 1.5 / np.sqrt(np.prod(parameter.shape[1:])) if parameter.ndim > 1 else 0.1
        parameter.set_data(ms.Tensor(rng.normal(0, scale, parameter.shape).astype(np.float32)))
    return network


def session_of(network, outputs, limits):
    """A model whose raw outputs are its inputs, and the names of these."""
    names = [f"raw_{k}" for k in range(len(outputs))]
    inputs = [
        helper.make_tensor_value_info(f"in_{name}", TensorProto.FLOAT, ["batch", *each.shape[1:]])
        for name, each in zip(names, outputs)
    ]
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *each.shape[1:]])
        for name, each in zip(names, outputs)
    ]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [name]) for name in names]
    graph = helper.make_graph(nodes, "raw", inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = add_instances(model, network, RPN, *SHAPE, limits)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session, [f"in_{name}" for name in names]


@pytest.mark.parametrize(("batch", "limits"), [(1, Limits()), (3, Limits(0.4, 0.3, 150, 5))])
def test_boxes_and_masks_are_those_of_the_graphs(batch, limits):
    outputs = first_outputs(batch)
    network = network_of(outputs)
    sizes = np.array([[60, 90], [64, 96], [40, 30]], np.float32)[:batch]
    scales = np.array([[1.5, 1.25], [1, 1], [2, 2]], np.float32)[:batch]
    detector = MaskDetector(network, limits)
    expected = detector(np.zeros((batch, 3, *SHAPE), np.float32), sizes, scales, np.ones(batch, bool))
    session, names = session_of(network, outputs, limits)
    rows, masks = session.run(None, {**dict(zip(names, outputs)), "sizes": sizes, "scales": scales})
    assert len(rows) == len(masks) == sum(len(each.boxes) for each in expected) > 4
    for k, found in enumerate(expected):
        own = rows[:, 0] == k
        np.testing.assert_array_equal(rows[own, 6], found.labels)
        np.testing.assert_allclose(rows[own, 5], found.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(rows[own, 1:5], found.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(masks[own], sigmoid(found.masks), rtol=0, atol=1e-4)

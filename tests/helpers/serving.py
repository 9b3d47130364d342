"""A small ONNX file as ``export.py`` writes them, and the service of one in this process or another."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
from kserve import ModelRepository
from kserve.protocol.dataplane import DataPlane
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images
from starlette.testclient import TestClient

from mindcv_models.serving.app import build_app
from mindcv_models.serving.options import ServeOptions
from mindcv_models.serving.service import Service

ROOT = Path(__file__).parents[2]
SIDE, CLASSES = 32, 7
ABOUT = {"model": "small", "image_size": [SIDE, SIDE], "crop_pct": 0.9, "crop_mode": "center",
         "interpolation": "bicubic", "mean": [120.0, 110.0, 100.0], "std": [60.0, 59.0, 58.0],
         "class_names": [f"class {k}" for k in range(CLASSES)]}  # fmt: skip


def small_file(path, about=ABOUT, batch="batch"):
    """A classifier: a convolution of stride 4, the mean over places, a matrix."""
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(0, 0.2, (8, 3, 4, 4)), "matrix": rng.normal(0, 2, (8, CLASSES))}
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["logits"]),
    ]
    return write(path, nodes, {"images": [batch, 3, SIDE, SIDE]}, {"logits": [batch, CLASSES]}, weights, about)


def boxes_file(path, masks=False):
    """A detector of landscapes that finds one object in each image; its box tells the image's size and scale.

    Args:
        masks: give the object a mask, the upper half of its box.
    """
    weights = {"zero": np.zeros((), np.int64), "one": np.ones((), np.int64), "places": np.int64([1]),
               "nothing": np.zeros((1, 2)), "end": np.array([[0.9, 1]])}  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["sizes"], ["count"], end=1),
        helper.make_node("Squeeze", ["count"], ["rows"]),
        helper.make_node("Range", ["zero", "rows", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["places_of_images"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["places_of_images", "places"], ["first"]),
        helper.make_node("Mul", ["sizes", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "end"], ["last"]),
        helper.make_node("Concat", ["first", "zeros", "sizes", "last"], ["detections"], axis=1),
    ]
    outputs = {"detections": ["found", 7]}
    if masks:
        weights["half"] = np.repeat([[[1.0]], [[0.0]]], 14, 0).reshape(1, 28, 1) * np.ones((1, 28, 28))
        nodes.append(helper.make_node("Identity", ["half"], ["masks"]))
        outputs["masks"] = ["found", 28, 28]
    about = {**ABOUT, "image_size": [64, 96], "crop_mode": "fit", "img_scale": [96, 60], "class_names": ["a", "b"]}
    inputs = {"images": ["batch", 3, 64, 96], "sizes": ["batch", 2], "scales": ["batch", 2]}
    return write(path, nodes, inputs, outputs, weights, about)


def maps_file(path, argmax=False):
    """A segmenter: at each pixel the strongest of the normalised colours."""
    nodes = [helper.make_node("Identity", ["images"], ["logits"])]
    outputs = {"logits": ["batch", 3, 24, 32]}
    if argmax:
        nodes = [helper.make_node("ArgMax", ["images"], ["classes"], axis=1, keepdims=0)]
        outputs = {"classes": ["batch", 24, 32]}
    about = {**ABOUT, "image_size": [24, 32], "crop_mode": "squash", "class_names": ["red", "green", "blue"]}
    return write(path, nodes, {"images": ["batch", 3, 24, 32]}, outputs, {}, about)


def write(path, nodes, inputs, outputs, weights, about):
    """Write an ONNX file, with its metadata if there is any."""
    kinds = {"classes": TensorProto.INT64}
    values = [
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    ]
    made = [numpy_helper.from_array(np.float32(v) if v.dtype == np.float64 else v, k) for k, v in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", *values, made), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    if about:
        helper.set_model_props(model, {"mindcv_models": json.dumps(about)})
    onnx.save(model, path)
    return path


def photographs(folder):
    """Two JPEG files, of a landscape's size and of a portrait's."""
    paths = []
    for k, pixels in enumerate(load_sample_images().images):
        paths.append(folder / f"photo{k}.jpg")
        Image.fromarray(pixels[::4, ::4] if k else pixels[::4, :400:4]).save(paths[-1])
    return paths


@contextmanager
def serving(path, **options):
    """A client of the file's service, in this process."""
    service = Service(ServeOptions(model_file=str(path), threads=1, max_delay=0, **options))
    repository = ModelRepository()
    repository.update(service)
    service.load()
    with TestClient(build_app(service, DataPlane(repository)), raise_server_exceptions=False) as client:
        client.service = service
        yield client


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


@contextmanager
def process(path, *words):
    """``serve.py`` as a process, and the address where it answers."""
    port = free_port()
    command = [
        sys.executable,
        "serve.py",
        "--model_file",
        str(path),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                httpx.get(f"{address}/v2/health/ready", timeout=10).raise_for_status()
                break
            except httpx.TransportError:
                assert server.poll() is None, server.stderr.read()
                time.sleep(0.1)
        yield server, address
    finally:
        server.kill()
        server.wait()
        server.stderr.close()

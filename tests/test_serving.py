"""serve.py: pictures and tensors over HTTP, what is refused and how, batches, and the page."""

import asyncio
import base64
import io
import json
import re
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import httpx
import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from PIL import Image

import export
import infer
import serve
from mindcv_models import create_model
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.data.crop import CropTransform
from mindcv_models.detection.masks import RunLengths, run_lengths
from mindcv_models.errors import InputError
from mindcv_models.options import parse
from mindcv_models.serving.batcher import Batcher, OverloadedError
from mindcv_models.serving.guard import Guard
from mindcv_models.serving.model_file import ModelFile
from mindcv_models.serving.options import ServeOptions
from mindcv_models.serving.server import check_address
from tests.helpers import dense_tiny, tiny, tiny_detector  # noqa: F401, they register networks
from tests.helpers.browser import CHROMIUM, browsing
from tests.helpers.serving import (
    ABOUT,
    CLASSES,
    SIDE,
    boxes_file,
    maps_file,
    photographs,
    process,
    serving,
    small_file,
)
from tests.helpers.tiny_detector import call

ROOT = Path(__file__).parents[1]
LENGTH = "inference-header-content-length"
INFER = "/v2/models/small/infer"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_file(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="module")
def client(path):
    with serving(path) as made:
        yield made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photos"))


def form(*paths):
    return [("image", (path.name, path.read_bytes(), "image/jpeg")) for path in paths]


def outputs_of(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def images_of(photos):
    transform = CropTransform(SIDE, 0.9, "center", "bicubic", tuple(ABOUT["mean"]), tuple(ABOUT["std"]))
    return np.stack([transform(np.asarray(Image.open(path))) for path in photos])


# Pictures.


def test_pictures_become_classes(client, path, photos):
    logits = outputs_of(path, images_of(photos)).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answer = client.post("/predict", files=form(*photos), data={"topk": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "small"
    for photo, own, result in zip(photos, shares, answer.json()["results"]):
        assert result["image"] == photo.name
        order = np.argsort(-own)[:3]
        assert [found["label"] for found in result["classes"]] == order.tolist()
        assert [found["class"] for found in result["classes"]] == [f"class {k}" for k in order]
        np.testing.assert_allclose([found["probability"] for found in result["classes"]], own[order], atol=1e-5)


def test_a_picture_may_be_the_body(client, photos):
    expected = client.post("/predict", files=form(photos[0])).json()["results"][0]["classes"]
    answer = client.post("/predict?topk=2", content=photos[0].read_bytes(), headers={"content-type": "image/jpeg"})
    assert answer.json()["results"] == [{"image": "image", "classes": expected[:2]}]


def test_a_file_for_one_batch_size_is_filled_up(path, photos, tmp_path):
    with serving(small_file(tmp_path / "four.onnx", batch=4)) as four, serving(path) as any_size:
        answers = [each.post("/predict", files=form(*photos)).json() for each in (four, any_size)]
    assert answers[0] == answers[1]


# Tensors.


def v2(images, **more):
    entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
    return {"inputs": [entry], **more}


def binary(images, **more):
    """Body and headers of a request with the tensor behind the JSON."""
    entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32",
             "parameters": {"binary_data_size": images.nbytes}}  # fmt: skip
    text = json.dumps({"inputs": [entry], **more}).encode()
    return {"content": text + images.tobytes(), "headers": {LENGTH: str(len(text))}}


def test_tensors_as_json(client, path, photos):
    images = images_of(photos)
    answer = client.post(INFER, json=v2(images, id="mine")).json()
    assert (answer["id"], answer["model_name"]) == ("mine", "small")
    (logits,) = answer["outputs"]
    assert (logits["name"], logits["datatype"], logits["shape"]) == ("logits", "FP32", [2, CLASSES])
    np.testing.assert_allclose(np.reshape(logits["data"], (2, CLASSES)), outputs_of(path, images), rtol=1e-5)
    nested = {"inputs": [{**v2(images)["inputs"][0], "data": images.tolist()}]}
    assert client.post(INFER, json=nested).json()["outputs"] == answer["outputs"]


@pytest.mark.parametrize(
    "wish", [{"parameters": {"binary_data_output": True}},
             {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}],
)  # fmt: skip
def test_binary_tensors(client, path, photos, wish):
    images = images_of(photos)
    answer = client.post(INFER, **binary(images, **wish))
    length = int(answer.headers[LENGTH])
    (described,) = json.loads(answer.content[:length])["outputs"]
    assert described["parameters"] == {"binary_data_size": 2 * CLASSES * 4}
    logits = np.frombuffer(answer.content[length:], np.float32).reshape(described["shape"])
    np.testing.assert_allclose(logits, outputs_of(path, images), rtol=1e-5)


def test_the_protocol_describes_the_model(client):
    described = client.get("/v2/models/small").json()
    assert described["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}]
    assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/small/ready").json() == {"name": "small", "ready": True}
    assert client.get("/v2/models").json() == {"models": ["small"]}


def test_figures_for_prometheus(client, photos):
    def counts():
        text = client.get("/metrics").text
        return [float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])
                for name in ('serve_requests_total{path="predict",status="200"}', "serve_batch_rows_sum")]  # fmt: skip

    client.post("/predict", files=form(photos[0]))
    before = counts()
    client.post("/predict", files=form(*photos))
    assert counts() == [before[0] + 1, before[1] + 2]


# What is refused.


def png_header(width, height):
    """A PNG that says that it has so many pixels, and has none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


ONE = np.zeros((1, 3, SIDE, SIDE), np.float32)
BAD_PICTURES = [
    ({"content": b""}, 400, "the request is empty"),
    ({"content": b"no picture"}, 400, "cannot decode image: no image of a known kind"),
    ({"files": [("image", ("a\nb.png", b"\x89PNG\r\n\x1a\n" + bytes(50)))]}, 400, "cannot decode a%0Ab.png: "),
    ({"content": png_header(60000, 60000)}, 413, "60000 x 60000, more than 50,000,000 pixels"),
    ({"data": {"topk": "3"}}, 400, "the request is empty|no image of a known kind|0 files are given"),
    ({"files": [("image", ("a.png", b"x"))] * 17}, 400, "files are given, but must be 1 to 16|Too many files"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
    ({"content": b"--a\r\nno", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, ""),
    ({"content": b"x", "params": {"topk": "many"}}, 400, "topk must be a whole number"),
    ({"content": b"x", "params": {"topk": "0"}}, 400, "topk must be at least 1"),
    ({"content": b"x", "params": {"min_score": "nan"}}, 400, "min_score from 0 to 1"),
    ({"content": b"x", "params": {"top": "1"}}, 400, "unknown field 'top'"),
    ({"content": bytes(17 << 20)}, 413, "larger than 16 MiB"),
]
BAD_TENSORS = [
    ({"content": b""}, "is no JSON"),
    ({"content": b"[" * 5000}, "is no JSON"),
    ({"json": []}, "must be a JSON object"),
    ({"json": {}}, "inputs must be a list"),
    ({"json": {"inputs": []}}, "inputs must be a list"),
    ({"json": {"inputs": ["images"]}}, "each entry needs a name"),
    ({"json": v2(ONE, id=3)}, "id must be text"),
    ({"json": v2(ONE, parameters=3)}, "parameters must be an object"),
    ({"json": v2(ONE, outputs=[{"name": "other"}])}, "there is no output other: it must be logits"),
    ({"json": v2(ONE[:, :1])}, r"images has the shape \[1, 1, 32, 32\], but must have \(any, 3, 32, 32\)"),
    ({"json": v2(ONE[:0])}, "0 images are given, but must be 1 to 8"),
    ({"json": v2(np.zeros((9, 3, SIDE, SIDE), np.float32))}, "9 images are given, but must be 1 to 8"),
    ({"json": {"inputs": v2(ONE)["inputs"] * 2}}, "must be images, each once"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "name": "image"}]}}, "inputs are image, but must be images"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "shape": [1, -3]}]}}, "must be a list of sides"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "shape": [1] * 9}]}}, "must be a list of sides"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "datatype": "BYTES"}]}}, "datatype is 'BYTES'"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "datatype": "INT64"}]}}, "images is INT64, but must be FP32"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "data": "text"}]}}, "data must be numbers"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "data": [[1], [2, 3]]}]}}, "data must be numbers"),
    ({"json": {"inputs": [{**v2(ONE)["inputs"][0], "data": [1]}]}}, "images has 1 numbers, but its shape is"),
    ({"json": {"inputs": [{"name": "images", "shape": [1], "datatype": "FP32"}]}}, "images has no data"),
    ({**binary(ONE), "headers": {LENGTH: "ten"}}, "give the length of the JSON"),
    ({**binary(ONE), "headers": {LENGTH: "9999999"}}, "give the length of the JSON"),
    ({**binary(ONE), "content": binary(ONE)["content"][:-4]}, "images has no data"),
    ({**binary(ONE), "content": binary(ONE)["content"] + b"x"}, "1 bytes are left"),
]  # fmt: skip


def assert_refused(answer, status, message):
    assert answer.status_code == status, answer.text
    (line,) = answer.json().values()
    assert "\n" not in line and re.search(message, line), line


@pytest.mark.parametrize(("request_", "status", "message"), BAD_PICTURES)
def test_bad_pictures_are_refused_in_one_line(client, request_, status, message):
    assert_refused(client.post("/predict", **request_), status, message)


@pytest.mark.parametrize(("request_", "message"), BAD_TENSORS)
def test_bad_tensors_are_refused_in_one_line(client, request_, message):
    assert_refused(client.post(INFER, **request_), 400, message)


@pytest.mark.parametrize(
    ("method", "address", "status", "message"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("PUT", "/predict", 405, "Method Not Allowed"),
        ("GET", "/v2/models/other", 404, "other does not exist"),
        ("POST", "/v2/models/other/infer", 404, "other does not exist"),
        ("POST", "/v2/repository/models/small/unload", 403, "stays"),
        ("POST", "/v2/models/small/versions/1/infer", 400, "not what this address takes"),
    ],
)
def test_wrong_addresses(client, method, address, status, message):
    assert_refused(client.request(method, address), status, message)
    assert client.get("/v2/models/small/ready").json()["ready"]


def test_a_failure_is_one_line_and_the_service_goes_on(client, photos, monkeypatch, caplog):
    def fail(tensors):
        raise RuntimeError("the model\nfails")

    with monkeypatch.context() as patch:
        patch.setattr(client.service.running.batcher, "run", fail)
        assert_refused(client.post("/predict", files=form(photos[0])), 500, "the request failed: RuntimeError")
    assert "a request failed: RuntimeError: the model fails" in caplog.text
    assert client.post("/predict", files=form(photos[0])).status_code == 200


# Batches and limits, in an event loop of their own.


def rows(*values):
    return {"x": np.array(values, np.float32)[:, None]}


def doubled(batches):
    return [[2 * batch["x"]] for batch in batches]


def test_batches_gather_while_the_model_is_busy():
    async def scenario():
        sizes, gate = [], threading.Event()

        def run(batches):
            gate.wait(10)
            return doubled(batches)

        batcher = Batcher(run, 4, 0.0, 100, sizes.append)
        first = asyncio.create_task(batcher.submit(rows(0)))
        while not sizes:
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.submit(rows(*range(k, k + 1 + k % 2)))) for k in range(1, 6)]
        left = asyncio.create_task(batcher.submit(rows(99)))  # a client that goes away
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        gate.set()
        results = await asyncio.gather(first, *others)
        return sizes, [result[0][:, 0].tolist() for result in results], batcher.held

    sizes, results, held = asyncio.run(scenario())
    assert sizes == [1, 3, 3, 2]  # rows of 2, 1, 2, 1 and 2, never more than 4 together
    assert results == [[0], [2, 4], [4], [6, 8], [8], [10, 12]]
    assert held == 0


def test_an_idle_model_waits_for_more():
    async def scenario():
        sizes = []
        batcher = Batcher(doubled, 3, 60.0, 100, sizes.append)
        results = await asyncio.gather(*(batcher.submit(rows(k)) for k in range(3)))
        return sizes, [float(result[0][0, 0]) for result in results]

    assert asyncio.run(scenario()) == ([3], [0, 2, 4])


def test_a_full_queue_is_refused():
    async def scenario():
        batcher = Batcher(doubled, 2, 60.0, 3)
        waiting = asyncio.create_task(batcher.submit(rows(1)))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="1 images wait already: try again later"):
            await batcher.submit(rows(1, 2, 3))
        return [result[0][:, 0].tolist() for result in await asyncio.gather(waiting, batcher.submit(rows(5)))]

    assert asyncio.run(scenario()) == [[2], [10]]


class Sent(list):
    async def __call__(self, message):
        self.append(message)


def guarded(options, *requests):
    """(status, text) of requests, each a list of body parts or of a pause, that reach a guard one after another."""

    async def app(scope, receive, send):
        await asyncio.sleep(0.05)
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    async def one(guard, parts):
        waiting, sent = list(parts), Sent()

        async def receive():
            part = waiting.pop(0) if waiting else await asyncio.sleep(60)
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        await guard({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, sent)
        return sent[0]["status"], sent[1]["body"].decode()

    async def scenario():
        guard = Guard(app, ServeOptions(model_file="x", **options))
        answers = await asyncio.gather(*(one(guard, parts) for parts in requests))
        return answers, (guard.requests, guard.bytes)

    answers, left = asyncio.run(scenario())
    assert left == (0, 0)
    return answers


def test_limits_of_requests():
    mib = bytes(1 << 20)
    assert guarded({}, [b"abc", b"de"]) == [(200, "5")]
    (status, text), fine = guarded({"max_body": 1}, [mib, b"x"], [mib])
    assert (status, json.loads(text)["error"]) == (413, "the request is larger than 1 MiB: send less at a time")
    assert fine == (200, str(1 << 20))
    fine, (status, text) = guarded({"max_memory": 16}, [mib * 10], [mib * 10])
    assert (status, json.loads(text)["error"]) == (503, "requests of 10 MiB are being answered: try again later")
    fine, other, (status, text) = guarded({"max_queue": 2}, [b"a"], [b"b"], [b"c"])
    assert (fine[0], other[0], status) == (200, 200, 503)
    assert json.loads(text)["error"] == "2 requests are being answered: try again later"
    ((status, text),) = guarded({"timeout": 0.01}, [])
    assert (status, json.loads(text)["error"]) == (408, "the request took more than 0.01 seconds to arrive")


# Objects and maps, by files whose outputs are known.


def test_objects_of_pictures_that_go_through_the_model_together(photos, tmp_path):
    """A picture is fitted as infer.py fits it, unless it is higher than the file then; the box tells its size there."""
    with serving(boxes_file(tmp_path / "boxes.onnx")) as client:
        answer = client.post("/predict", files=form(*photos)).json()
        assert client.service.running.task.fitted(107, 60) == (64, 36)
    (portrait,) = answer["results"][0]["detections"]
    (landscape,) = answer["results"][1]["detections"]
    assert [Image.open(photo).size for photo in photos] == [(100, 107), (160, 107)]
    assert portrait["box"] == [0, 0, 64, 60]  # into 96 by 60
    assert landscape["box"] == [0, 0, 60, 90]
    assert [(found["class"], found["label"], found["score"]) for found in (portrait, landscape)] == [("b", 1, 0.9)] * 2


def test_masks_and_least_scores(photos, tmp_path):
    with serving(boxes_file(tmp_path / "masks.onnx", masks=True)) as client:
        (result,) = client.post("/predict", files=form(photos[1])).json()["results"]
        (nothing,) = client.post("/predict?min_score=0.95", files=form(photos[1])).json()["results"]
    (found,) = result["detections"]
    left, top, right, bottom = found["box"]
    assert found["mask"]["size"] == [result["height"], result["width"]] == [107, 160]
    mask = runs(found["mask"])
    assert mask.counts[1::2].sum() == pytest.approx((right - left) * (bottom - top) / 2, rel=0.02)
    assert nothing["detections"] == []


@pytest.mark.parametrize("argmax", [False, True])
def test_maps_have_the_pictures_size(argmax, tmp_path):
    """Pure colours, in halves; their border is at the same place in the file's size and in the picture's."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    with serving(maps_file(tmp_path / "maps.onnx", argmax)) as client:
        (result,) = client.post("/predict", files=form(tmp_path / "halves.png")).json()["results"]
    assert [(c["class"], c["label"], c["share"]) for c in result["classes"]] == [("red", 0, 0.5), ("blue", 2, 0.5)]
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(result["labels"]))))
    np.testing.assert_array_equal(labels, np.where(np.arange(64) < 32, 0, 2)[None].repeat(48, 0))


# The same as infer.py says.


def exported(folder, model, words, **options):
    """A checkpoint of random weights, large enough for scores that differ, and its ONNX file."""
    checkpoint, file = folder / f"{model}.ckpt", folder / f"{model}.onnx"
    network, rng = create_model(model, **options), np.random.default_rng(0)
    for p in network.get_parameters():
        if len(p.shape) > 1:
            p.set_data(ms.Tensor(np.float32(rng.normal(0, np.sqrt(2 / np.prod(p.shape[1:])), p.shape))))
    save_checkpoint(network.get_parameters(), checkpoint)
    code, _ = call(export.main, "--model", model, "--ckpt_path", checkpoint, "--output", file, *words)
    assert code == 0
    return checkpoint, file


def both(folder, photos, words, more, **options):
    """What infer.py and the service say of the photographs."""
    checkpoint, file = exported(folder, words[1], [*words[2:], *more], **options)
    infer_words = [*words, "--ckpt_path", checkpoint, "--num_classes", "3", "--mode", "1", "--format", "json"]
    extra = {"image_resize": more[1:2]} if words[1] == "tiny" else {}
    given = [*infer_words, *(["--image_resize", *extra["image_resize"]] if extra else []), "--images", *photos]
    code, text = call(infer.main, *given, *infer_more(words[1]))
    assert code == 0
    with serving(file) as client:
        answer = client.post("/predict", files=form(*photos), data={"min_score": "0.05"})
    assert answer.status_code == 200, answer.text
    return json.loads(text), answer.json()["results"]


def infer_more(model):
    sizes = ["--img_scale", "96", "96", "--min_score", "0.05", "--score_threshold", "0.05"]
    return sizes if model in ("retinanet", "mask_rcnn") else []


def test_classes_are_those_of_infer(photos, tmp_path):
    expected, results = both(tmp_path, photos, ["--model", "tiny"], ["--image_resize", "32", "--num_classes", "3"],
                             num_classes=3)  # fmt: skip
    for own, other in zip(results, expected):
        assert [found["class"] for found in own["classes"]] == [found["class"] for found in other["classes"]]
        for mine, its in zip(own["classes"], other["classes"]):
            assert abs(mine["probability"] - its["probability"]) <= 1e-5


DETECTOR = ["--channels", "8", "--convs", "1", "--anchor_scale", "2"]
FILE = ["--image_resize", "96", "96", "--img_scale", "96", "96", "--num_classes", "3", "--detections", "True",
        "--score_threshold", "0.05"]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "backbone"),
    [("retinanet", "tiny_features"), pytest.param("mask_rcnn", "tiny_pyramid", marks=pytest.mark.slow)],
)
def test_objects_are_those_of_infer(model, backbone, photos, tmp_path):
    words = ["--model", model, "--backbone", backbone, *DETECTOR]
    expected, results = both(
        tmp_path, photos, words, FILE, backbone=backbone, channels=8, convs=1, anchor_scale=2.0, num_classes=3
    )
    for own, other in zip(results, expected):
        mine, its = own["detections"], other["detections"]
        assert len(mine) == len(its) > 0
        # infer.py rounds scores to four digits and sides to two
        np.testing.assert_allclose([d["score"] for d in mine], [d["score"] for d in its], rtol=0, atol=6e-5)
        np.testing.assert_allclose(
            np.sort([d["box"] for d in mine], 0), np.sort([d["box"] for d in its], 0), rtol=0, atol=0.016
        )
        if model == "mask_rcnn":
            areas = [[runs(d["mask"]).counts[1::2].sum() for d in each] for each in (mine, its)]
            assert np.abs(np.sort(areas[0]) - np.sort(areas[1])).max() <= 2


def runs(mask):
    return RunLengths.of(mask, *mask["size"])


def test_maps_are_those_of_infer(photos, tmp_path):
    """Of pictures of the file's size; others are resized to it."""
    own = []
    for k, photo in enumerate(photos):
        own.append(tmp_path / f"{k}.png")
        Image.open(photo).resize((96, 64)).save(own[-1])
    words = ["--model", "semantic_fpn", "--backbone", "tiny_maps", "--channels", "8", "--head_channels", "8"]
    more = ["--image_resize", "64", "96", "--num_classes", "3"]
    expected, results = both(
        tmp_path, own, words, more, backbone="tiny_maps", channels=8, head_channels=8, num_classes=3
    )
    for mine, its in zip(results, expected):
        assert {c["class"]: c["share"] for c in mine["classes"]} == {c["class"]: c["share"] for c in its["classes"]}
        assert (mine["height"], mine["width"]) == (64, 96)


# The command.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model_file is missing"),
        (["--model_file", "none.onnx"], "no file at none.onnx"),
        (["--model_file", __file__], "cannot be run by ONNX Runtime"),
        (["--model_file", "{bare}"], "does not say how images are prepared"),
        (["--model_file", "{path}", "--port", "0"], "port is 0, but must be from 1 to 65535"),
        (["--model_file", "{path}", "--workers", "two"], "workers"),
        (["--model_file", "{path}", "--max_memory", "1"], "max_memory is 1, but one request may have 16"),
        (["--model_file", "{path}", "--max_bach", "2"], "did you mean --max_batch"),
        (
            ["--model_file", "{path}", "--host", "127.0.0.1", "--port", "{taken}"],
            "Address already in use): choose another",
        ),
    ],
)
def test_bad_options_are_one_line_and_status_2(words, message, path, tmp_path, monkeypatch, capsys):
    bare = small_file(tmp_path / "bare.onnx", about=None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [word.format(path=path, bare=bare, taken=taken.getsockname()[1]) for word in words]
        monkeypatch.setattr(sys, "argv", ["serve.py", *given])
        assert serve.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize(("ir_version", "opset", "reason"), [(99, 20, "IR version: 99"), (10, 99, "till opset")])
def test_a_file_that_is_newer_than_the_runtime_says_so(tmp_path, ir_version, opset, reason):
    path = small_file(tmp_path / "new.onnx")
    model = onnx.load(str(path))
    model.ir_version, model.opset_import[0].version = ir_version, opset
    onnx.save(model, str(path))
    advice = f"cannot be run by ONNX Runtime {onnxruntime.__version__}.*{reason}.*so install a newer onnxruntime"
    with pytest.raises(InputError, match=advice) as error:
        ModelFile(str(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_another_machines_address_is_refused():
    with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.1 port 80"):
        check_address("203.0.113.1", 80)


def test_the_container_has_what_the_tests_have():
    """tools/Dockerfile cannot be built here: what it copies is there, and it starts what these tests start."""
    lines = (ROOT / "tools" / "Dockerfile").read_text().splitlines()
    commands = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = [text.split()[0] for kind, text in commands if kind == "COPY"]
    assert copied == ["requirements-serve.txt", "serve.py", "mindcv_models"]
    assert all((ROOT / name).exists() for name in copied)
    assert ["RUN", "pip install --no-cache-dir -r requirements-serve.txt"] in commands
    assert "-r requirements-serve.txt" in (ROOT / "requirements-test.txt").read_text().splitlines()
    (entry,) = (json.loads(text) for kind, text in commands if kind == "ENTRYPOINT")
    assert entry[:2] == ["python", "serve.py"]
    assert parse(ServeOptions, "", entry[2:]).model_file == "/model/model.onnx"


@pytest.mark.process
def test_sigterm_lets_requests_finish(path, photos):
    """One process: no MindSpore in it; a request that is under way is answered, and the status is 0."""
    with process(path) as (server, address):
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "onnxruntime" in maps and "mindspore" not in maps
        data = photos[0].read_bytes()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as own:
            own.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode())
            own.sendall(data[:100])
            wait_for(address, "serve_waiting_requests 1.0")
            server.send_signal(signal.SIGTERM)
            while True:
                try:
                    httpx.get(address, timeout=5)
                except httpx.TransportError:
                    break  # no longer listening
                time.sleep(0.02)
            own.sendall(data[100:])
            assert own.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert server.wait(20) == 0
        assert server.stderr.read().startswith("small (classes): http://127.0.0.1:")


def wait_for(address, line):
    for _ in range(200):
        if line in httpx.get(f"{address}/metrics").text:
            return
        time.sleep(0.02)
    raise AssertionError(line)


def kserves_client(address, images):
    """The logits that KServe's own client gets, with binary tensors."""

    async def ask():
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        tensor = InferInput("images", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=True)
        request = InferRequest("small", [tensor], parameters={"binary_data_output": True})
        try:
            assert await client.is_server_ready(address) and await client.is_model_ready(address, "small")
            return (await client.infer(address, request, model_name="small")).outputs[0].as_numpy()
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.mark.process
def test_several_workers_answer_and_count_together(path, photos):
    with process(path, "--workers", "2") as (server, address):
        answers = [httpx.post(f"{address}/predict", files=form(photos[0])) for _ in range(6)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        images = images_of(photos)
        np.testing.assert_allclose(kserves_client(address, images), outputs_of(path, images), rtol=1e-5)
        wait_for(address, 'serve_requests_total{path="predict",status="200"} 6.0')
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


# The page.


def test_the_page_asks_no_other_host(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(src|href)=.(https?:)?//", answer.text)
    assert client.get("/about").json() == {"model": "small", "kind": "classes", "max_images": 16}


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(path, photos):
    bitmap = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    counts = run_lengths(bitmap)["counts"]
    with process(path) as (_, address), browsing() as page:
        expected = httpx.post(f"{address}/predict", files=form(photos[0])).json()["results"][0]["classes"]
        for width, dark in ((1000, False), (390, True)):
            page.open(address, width, 800, dark)
            page.wait("document.title == 'small'")
            page.choose("#files", photos[0])
            page.wait("document.querySelectorAll('.row').length == 5")
            lines = page.value("[...document.querySelectorAll('.row')].map(row => row.innerText.replace(/\\s+/g, ' '))")
            assert lines == [f"{c['class']} {100 * c['probability']:.1f} %" for c in expected]
            assert page.value("document.documentElement.scrollWidth") <= width
            back = page.value("getComputedStyle(document.body).backgroundColor")
            assert back == ("rgb(20, 23, 27)" if dark else "rgb(246, 247, 249)")
            page.choose("#files", Path(__file__))
            page.wait("document.getElementById('message').className == 'error'")
            assert "no image of a known kind" in page.value("document.getElementById('message').textContent")
            assert page.value(f"decodeRuns({{size: [3, 4], counts: {json.dumps(counts)}}}).join('')") == "011001100000"
        assert all(each.startswith((address, "blob:", "data:")) for each in page.requested)
        assert all("400 (Bad Request)" in each for each in page.problems)

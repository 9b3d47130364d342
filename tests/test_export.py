"""export.py as a user runs it, and what its files hold and compute."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import nn, ops
from mindspore.train.mind_ir_pb2 import ModelProto

import mindcv_models
from mindcv_models import export
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.checkpoint.torch_weights import load_torch_state_dict
from mindcv_models.errors import InputError
from mindcv_models.export import check
from tests import parity
from tests.test_scripts import call

SIZE = (64, 64)


def stand_in(family, name, **options):
    """A network with the tests' stand-in weights, in which every branch counts."""
    network = mindcv_models.create_model(name, **options)
    shapes = parity.manifest(family)[name.removeprefix("fastvit_")]
    load_torch_state_dict(network, parity.state_dict(shapes.get("train", shapes)))
    return network.set_train(False)


@pytest.fixture(scope="module")
def t8():
    """FastViT-T8 in the training form, as it runs on this device."""
    return stand_in("fastvit", "fastvit_t8")


@pytest.fixture(scope="module")
def checkpoint(t8, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "t8.ckpt"
    save_checkpoint(t8.get_parameters(), path)
    return path


def arguments(checkpoint, output, *more):
    return ["--model", "fastvit_t8", "--ckpt_path", str(checkpoint), "--output", str(output),
            "--image_resize", *map(str, SIZE), *more]  # fmt: skip


def close(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_onnx(t8, checkpoint, tmp_path, monkeypatch, capsys):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(1000)))
    output = tmp_path / "t8.onnx"
    status, _, error = call("export", arguments(checkpoint, output, "--class_names", str(names)), monkeypatch, capsys)
    assert status == 0, error
    assert [p.name for p in tmp_path.iterdir() if p != names] == ["t8.onnx"]

    model = onnx.load(str(output))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    types = [node.op_type for node in model.graph.node]
    assert types.count("Gelu") == 17
    assert not {"BatchNormalization", "Erf", "Reshape", "Shape"} & set(types)
    assert [size.dim_param or size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 3, *SIZE,
    ]  # fmt: skip
    (entry,) = model.metadata_props
    assert entry.key == export.METADATA_KEY
    described = json.loads(entry.value)
    assert described["model"] == "fastvit_t8"
    assert described["image_size"] == list(SIZE)
    assert (described["crop_pct"], described["interpolation"]) == (0.9, "bicubic")
    assert described["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert described["std"] == pytest.approx([58.395, 57.12, 57.375])
    assert described["class_names"][:2] == ["class 0", "class 1"]

    images = parity.images(5, *SIZE)
    expected = t8(ms.Tensor(images)).asnumpy()
    run = check.reload(output)
    for count in (1, 2, 5):
        close(run(images[:count]), expected[:count])


@pytest.mark.parametrize("batch_size", ["None", "2"])
def test_mindir(t8, checkpoint, tmp_path, monkeypatch, capsys, batch_size):
    output = tmp_path / "t8.mindir"
    status, _, error = call("export", arguments(checkpoint, output, "--batch_size", batch_size), monkeypatch, capsys)
    assert status == 0, error
    model = ModelProto.FromString(output.read_bytes())
    described = {entry.key: json.loads(entry.value) for entry in model.user_info}[export.METADATA_KEY]
    assert described["image_size"] == list(SIZE)
    assert list(model.graph.input[0].tensor[0].dims) == [-1 if batch_size == "None" else 2, 3, *SIZE]
    images = parity.images(2, *SIZE)
    close(check.reload(output)(images), t8(ms.Tensor(images)).asnumpy())


@pytest.mark.parametrize("format", ["onnx", "mindir"])
def test_a_file_that_computes_something_else_is_not_kept(checkpoint, tmp_path, monkeypatch, capsys, format):
    output = tmp_path / f"t8.{format}"
    output.write_bytes(b"before")

    def damaged(network):
        network = mindcv_models.reparameterize(network)
        weight = network.head.weight
        weight.set_data(weight + ms.Tensor(np.eye(*weight.shape, dtype=np.float32) * 1e-2))
        return network

    monkeypatch.setattr(export, "reparameterize", damaged)
    status, _, error = call("export", arguments(checkpoint, output), monkeypatch, capsys)
    assert status == 1
    assert error.startswith("error: the exported file's logits differ from the network's by ")
    assert error.count("\n") == 1
    assert output.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ckpt_path", ""], "ckpt_path is missing"),
        (["--ckpt_path", "absent.ckpt"], "no checkpoint at absent.ckpt"),
        (["--output", "t8.tflite"], "output is t8.tflite, but must end in .onnx or .mindir"),
        (["--output", "absent/t8.onnx"], "cannot write to absent"),
        (["--batch_size", "0"], "batch_size is 0, but must be at least 1"),
        (["--image_resize", "64", "64", "64"], "image_resize is 64 64 64, but must be one size, or height and width"),
        (["--class_names", "absent.txt"], "cannot read class_names absent.txt"),
        (["--class_names", "."], "has 0 names, but the model has 1000 classes"),
        (["--model", "fastvit_t9"], "did you mean fastvit_t8?"),
        (["--learning_rate", "1"], "unknown option --learning_rate"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(checkpoint, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = call("export", arguments(checkpoint, "t8.onnx", *more), monkeypatch, capsys)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxruntime: run `pip install -r requirements-export\.txt`"):
        export.check_format(Path("t8.onnx"))
    export.check_format(Path("t8.mindir"))


def test_a_primitive_that_onnx_lacks_is_named():
    class Unknown(nn.Cell):
        def construct(self, x):
            return ops.cumsum(x, 1)

    with pytest.raises(InputError, match="the network uses CumSum, which export to ONNX does not know"):
        export.to_onnx(Unknown(), (1, 3, 4, 4))

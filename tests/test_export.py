"""export.py as a user runs it, and what its files hold and compute."""

import itertools
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindcv.models.registry import get_pretrained_cfg
from mindspore import Tensor, nn, ops
from mindspore.train.mind_ir_pb2 import ModelProto

import mindcv_models
from mindcv_models import backend, export
from mindcv_models.checkpoint import save_checkpoint
from mindcv_models.errors import InputError
from mindcv_models.export import check, files
from mindcv_models.models import fastervit, fastvit, litv2
from tests.helpers import parity
from tests.helpers.networks import filled, make_shallow
from tests.helpers.runs import small_disk
from tests.helpers.scripts import call

SIZE = (64, 64)
WHOLE = {family: dict(family.VARIANTS) for family in (fastervit, fastvit, litv2)}


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """Shallow variants of all models: export takes each kind of block, not each block."""
    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)
        yield


@pytest.fixture(scope="module")
def t8(shallow):
    """FastViT-T8 in the training form, as it runs on this device."""
    return filled(mindcv_models.create_model("fastvit_t8"))


@pytest.fixture(scope="module")
def checkpoint(t8, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "t8.ckpt"
    save_checkpoint(t8.get_parameters(), path)
    return path


def arguments(checkpoint, output, *more):
    return ["--model", "fastvit_t8", "--ckpt_path", str(checkpoint), "--output", str(output),
            "--image_resize", *map(str, SIZE), *more]  # fmt: skip


def eagerly(network, images):
    """What ``network`` computes, without a compilation."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        return network(ms.Tensor(images)).asnumpy()
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def close(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.process
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
    assert (types.count("Gelu"), types.count("Conv"), types.count("Concat")) == (12, 35, 3)  # 3 convolutions in two
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
    expected = eagerly(t8, images)
    run = check.reload(output)
    for count in (1, 2, 5):
        close(run(images[:count])[0], expected[:count])


@pytest.mark.process
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
    close(check.reload(output)(images)[0], eagerly(t8, images))


@pytest.mark.process
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
    assert error.startswith("error: the exported file's outputs differ from the network's by ")
    assert error.count("\n") == 1
    assert output.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ckpt_path", ""], "ckpt_path is missing"),
        (["--ckpt_path", "absent.ckpt"], "no checkpoint at absent.ckpt"),
        (["-c", "a.yaml"], "reads no YAML file: give its options one by one"),
        (["--output", "t8.tflite"], "output is t8.tflite, but must end in .onnx or .mindir"),
        (["--output", "t8"], "output is t8, but must end in .onnx or .mindir"),
        (["--output", "absent/t8.onnx"], "cannot write to absent (No such file or directory): choose another output"),
        (["--num_classes", "10"], "does not fit the model: head.weight is (1000, 768) there, but must be (10, 768)"),
        (["--num_classes", "0"], "num_classes is 0, but must be at least 1"),
        (["--in_channels", "0"], "in_channels is 0, but must be at least 1"),
        (["--batch_size", "many"], "batch_size"),
        (["--crop_pct", "1.5"], "crop_pct is 1.5, but must be above 0 and at most 1"),
        (["--interpolation", "lanczos"], "interpolation"),
        (["--mean", "1", "2"], "mean is 1.0 2.0, but must be 3 numbers, one for each channel"),
        (["--std", "1", "0", "1"], "std is 1.0 0.0 1.0, but must be above 0 and at most 255"),
        (["--model_kwargs", "alpha=0.2"], "unexpected keyword argument 'alpha'"),
        (["--model", "litv2_s"], "does not fit the model: it has no "),
        (["--batch_size", "0"], "batch_size is 0, but must be at least 1"),
        (["--image_resize", "64", "64", "64"], "image_resize is 64 64 64, but must be one size, or height and width"),
        (["--class_names", "absent.txt"], "no class_names at absent.txt: check the path"),
        (["--class_names", "."], "class_names . has no names: give it a folder for each class"),
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


def prepared(name, size):
    return export.Preparation(name, size, 0.9, "center", "bicubic", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4))


# Sizes at which windows are padded and carriers are not on a square.
SMALL = {
    "faster_vit_0_224": (224, 224, {}),
    "faster_vit_0_any_res": (250, 330, {"do_propagation": True, "layer_scale": 0.1}),
    "litv2_s": (90, 100, {}),
}


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "format"),
    [("faster_vit_0_224", "onnx"), *itertools.product(["faster_vit_0_any_res", "litv2_s"], ["onnx", "mindir"])],
)
def test_the_other_families(name, format, tmp_path, monkeypatch, eager):
    make_shallow(monkeypatch, (1, 1, 1, 1))
    *size, options = SMALL[name]
    with backend.portable_form():
        network = filled(mindcv_models.create_model(name, num_classes=7, **options))
        assert export.export(network, tmp_path / f"n.{format}", prepared(name, tuple(size))) < 1e-4
    if format == "onnx":
        model = onnx.load(str(tmp_path / "n.onnx"))
        assert {node.domain for node in model.graph.node} == {""}
        assert "Gelu" in {node.op_type for node in model.graph.node}
        orders = [list(node.attribute[0].ints) for node in model.graph.node if node.op_type == "Transpose"]
        assert [0, 1, 3, 2] not in orders  # keys are transposed on their own
        assert [0, 2, 4, 3, 5, 1] not in orders  # channels are last when windows are cut


def test_large_weights_lie_beside_the_file_that_names_them(tmp_path):
    network = filled(nn.SequentialCell(nn.Conv2d(3, 16, 3, pad_mode="pad", padding=1), nn.ReLU()))
    graph = export.to_onnx(network, (None, 3, 8, 8))
    output = tmp_path / "n.onnx"
    (tmp_path / "n.onnx.data-00000000").write_bytes(b"old")
    with files.atomic_export(output) as partial:
        files.write_onnx_file(graph, partial, {}, largest=800)
    first, second = sorted(tmp_path.iterdir())
    assert first == output
    assert second.name.startswith("n.onnx.data-")
    assert second.stat().st_size == 16 * 3 * 3 * 3 * 4
    images = parity.images(2, 8, 8)
    np.testing.assert_allclose(check.reload(output)(images)[0], network(ms.Tensor(images)).asnumpy(), rtol=0, atol=1e-5)


def test_only_its_own_older_data_goes(tmp_path):
    """The name of an output may look like a pattern, and its folder may have other files."""
    others = ["a.onnx.data-00000000", "[a].onnx.data-notes", "*.onnx.data-0000000g"]
    for name in (*others, "[a].onnx.data-00000000", "*.onnx.data-00000001"):
        (tmp_path / name).write_bytes(b"data")
    for name in ("[a].onnx", "*.onnx"):
        with files.atomic_export(tmp_path / name) as partial:
            partial.write_bytes(b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "[a].onnx", "*.onnx"])


def test_an_error_leaves_the_old_file(tmp_path):
    output = tmp_path / "n.onnx"
    output.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.atomic_export(output) as partial:
        partial.write_bytes(b"new")
        raise ZeroDivisionError
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("format", ["onnx", "mindir"])
def test_a_full_disk_is_wrong_input_and_leaves_the_old_file(format, tmp_path):
    class Linear(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(3 * 16 * 16, 1000)  # 3 MB

        def construct(self, x):
            return self.dense(x.reshape(-1, 3 * 16 * 16))

    network = filled(Linear())
    output = tmp_path / f"n.{format}"
    with small_disk(tmp_path, 2**20) as (make_full, make_room):
        output.write_bytes(b"old")
        make_full()
        with pytest.raises(InputError, match=r"cannot write to .* \((No space left|File too large)"):
            export.export(network, output, prepared("fastvit_t8", (16, 16)))
        assert output.read_bytes() == b"old"
        make_room()
        assert list(tmp_path.iterdir()) == [output]


def test_a_folder_is_no_output(tmp_path):
    folder = tmp_path / "n.onnx"
    folder.mkdir()
    with pytest.raises(InputError, match="is a folder: choose a file in it"), files.atomic_export(folder):
        pass
    assert list(tmp_path.iterdir()) == [folder]


class Maps(nn.Cell):
    """Feature maps in nested tuples, one of which another is computed from."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def construct(self, x):
        x = self.first(x)
        return (x, self.second(x)), (ops.relu(x),)


@pytest.mark.parametrize("format", ["onnx", "mindir"])
def test_a_network_of_several_outputs(tmp_path, format):
    network = filled(Maps())
    path = tmp_path / f"maps.{format}"
    assert export.export(network, path, prepared("fastvit_t8", (8, 12))) < 1e-5
    images = parity.images(3, 8, 12)
    (x, y), (z,) = network(Tensor(images))
    for result, expected in zip(check.reload(path)(images), (x, y, z), strict=True):
        close(result, expected.asnumpy())


def test_one_of_several_outputs_that_differs_is_an_error(tmp_path, monkeypatch):
    images = parity.images(4, 8, 8)
    right = [np.ones((4, 2), np.float32), np.full((4, 3), 10, np.float32)]
    monkeypatch.setattr(check, "reload", lambda path: lambda x: [right[0][: len(x)], right[1][: len(x)] + 3e-4])
    with pytest.raises(export.OutputsDifferError, match=r"differ from the network's by 0.0003, more than 0.0001"):
        check.agreement(tmp_path / "n.onnx", images, right, None)
    monkeypatch.setattr(check, "reload", lambda path: lambda x: [r[: len(x)] for r in right])
    assert check.agreement(tmp_path / "n.onnx", images, right, None) == 0


def test_a_primitive_that_onnx_lacks_is_named():
    class Unknown(nn.Cell):
        def construct(self, x):
            return ops.cumsum(x, 1)

    with pytest.raises(InputError, match="the network uses CumSum, which export to ONNX does not support"):
        export.to_onnx(Unknown(), (1, 3, 4, 4))


def every_variant():
    """Each variant with its own size; those for any resolution at one that is not square."""
    for name in mindcv_models.list_models():
        size = (224, 288) if name.endswith("any_res") else get_pretrained_cfg(name)["input_size"][1:]
        yield pytest.param(name, tuple(size), id=name)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "mindir"])
@pytest.mark.parametrize(("name", "size"), list(every_variant()))
def test_every_variant(name, size, format, tmp_path, monkeypatch):
    for family, variants in WHOLE.items():
        monkeypatch.setattr(family, "VARIANTS", variants)
    with backend.portable_form():
        network = filled(mindcv_models.create_model(name))
        export.export(network, tmp_path / f"n.{format}", prepared(name, size))

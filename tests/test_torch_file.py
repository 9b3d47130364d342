"""PyTorch's files without PyTorch: the same tensors as torch.load, and nothing but a line from hostile files."""

import argparse
import collections
import gzip
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mindcv_models.checkpoint.state_dict import open_state_dict
from mindcv_models.checkpoint.torch_file import read_torch_file
from mindcv_models.errors import InputError
from tests.helpers import hostile
from tests.helpers.launch import PATIENCE

FORMATS = {"zip": True, "legacy": False}


class Namespace(argparse.Namespace):
    """What the official training scripts pickle beside the weights, from a module that a reader does not have."""


def tensors():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    return collections.OrderedDict(
        plain=base, transposed=base.t(), part=base[1:3, ::2], last=base.reshape(-1)[20:], shared=base[0],
        half=base.half(), bfloat16=torch.tensor([1.0, -3.14159, 1e38, 1e-40, float("inf")]).bfloat16(),
        double=base.double(), integer=torch.tensor(3), ints=torch.arange(-3, 3, dtype=torch.int32),
        short=torch.arange(5, dtype=torch.int16), bytes=torch.arange(5, dtype=torch.uint8), flags=base > 2,
        signed=torch.arange(-2, 3, dtype=torch.int8), wide=torch.arange(5).to(torch.uint16),
        empty=torch.empty(0, 3), repeated=torch.ones(1).expand(5), parameter=torch.nn.Parameter(base * 2),
        complex=torch.complex(base, -base), channels_last=torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    )  # fmt: skip


def training_checkpoint():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "arch": "net", "state_dict": network.state_dict(), "optimizer": optimizer.state_dict(),
        "args": Namespace(lr=1e-3, betas=(0.9, 0.999)), "metric": np.float64(71.5), "array": np.ones(3),
        "state_dict_ema": {f"module.{name}": value + 1 for name, value in network.state_dict().items()},
        "amp_scaler": collections.defaultdict(dict, scale=65536.0), "seen": {1, 2}, "device": torch.device("cpu"),
    }  # fmt: skip


def same(found, expected):
    expected = expected.detach().contiguous()
    expected = (expected.float() if expected.dtype == torch.bfloat16 else expected).numpy()
    found = np.asarray(found)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.ascontiguousarray(found).tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_tensor_is_what_torch_load_gives(tmp_path, form):
    path = str(tmp_path / "tensors.pth")
    content = tensors()
    if form == "legacy":
        del content["wide"]  # PyTorch writes unsigned 16-bit integers in that form, but cannot read them back
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[form])
    found, expected = read_torch_file(path), torch.load(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        same(found[name], value)


@pytest.mark.parametrize("form", FORMATS)
def test_a_training_checkpoint_comes_without_its_objects(tmp_path, form):
    path = str(tmp_path / "full.pth.tar")
    checkpoint = training_checkpoint()
    torch.save(checkpoint, path, _use_new_zipfile_serialization=FORMATS[form])
    for use_ema, key, offset in ((False, "state_dict", 0), (True, "state_dict_ema", 1)):
        state = open_state_dict(path, use_ema)
        assert state.origin == f"{key} of the checkpoint"
        assert list(state.tensors) == list(checkpoint["state_dict"])
        for name, value in checkpoint["state_dict"].items():
            same(state.tensors[name], value + offset)
    content = read_torch_file(path)
    assert (content["epoch"], content["arch"], content["amp_scaler"]) == (3, "net", {"scale": 65536.0})
    assert content["args"].origin == ("tests.test_torch_file", "Namespace")
    same(content["optimizer"]["state"][0]["exp_avg"], checkpoint["optimizer"]["state"][0]["exp_avg"])


def test_big_endian_archives_are_what_torch_load_gives(tmp_path):
    path = tmp_path / "big.pth"
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()}, path)
    swapped = []
    for name, data in hostile.entries(path):
        if name.endswith("byteorder"):
            data = b"big"
        elif "/data/" in name:
            data = np.frombuffer(data, np.uint32 if len(data) == 24 else np.uint16).byteswap().tobytes()
        swapped.append((name, data))
    path.write_bytes(hostile.archive(swapped))
    expected, found = torch.load(path), read_torch_file(str(path))
    assert expected["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for name, value in expected.items():
        same(found[name], value)


@pytest.mark.parametrize(
    ("wrap", "use_ema", "origin"),
    [
        (lambda w, e: w, False, "the bare state dict"),
        (lambda w, e: {"model": w, "epoch": 1}, False, "model of the checkpoint"),
        (lambda w, e: {"model": w, "model_ema": e}, False, "model of the checkpoint"),
        (lambda w, e: {"model": w, "model_ema": e}, True, "model_ema of the checkpoint"),
        (lambda w, e: {"state_dict": w, "state_dict_ema": e}, True, "state_dict_ema of the checkpoint"),
        (lambda w, e: {"state_dict_ema": {"module." + k: v for k, v in e.items()}}, True, "state_dict_ema of the ch"),
        (lambda w, e: {"module.module." + k: v for k, v in w.items()}, False, "the bare state dict"),
        (lambda w, e: {"model": {"state_dict": w}}, False, "model.state_dict of the checkpoint"),
        (lambda w, e: {"_orig_mod." + k: v for k, v in w.items()}, False, "the bare state dict"),
        (lambda w, e: {"model": {"module._orig_mod." + k: v for k, v in w.items()}}, False, "model of the checkpoint"),
        (lambda w, e: {"_orig_mod.module.model." + k: v for k, v in w.items()}, False, "the bare state dict"),
        (lambda w, e: {"head._orig_mod.weight": w["head.weight"]}, False, "the bare state dict"),
        (
            lambda w, e: {"_fsdp_wrapped_module.head._checkpoint_wrapped_module.weight": w["head.weight"]},
            False,
            "the bare state dict",
        ),
        (lambda w, e: {"model": {"head.module.weight": w["head.weight"]}}, False, "model of the checkpoint"),
        (lambda w, e: {"module.head._orig_mod.module.weight": w["head.weight"]}, False, "the bare state dict"),
        (lambda w, e: {"weights": w, "optimizer": {"m": e}}, False, "weights of the checkpoint"),
        (lambda w, e: {"best_acc1": torch.tensor(7.5), "state_dict": w}, False, "state_dict of the checkpoint"),
        (lambda w, e: {"net": {"params": w, "params_ema": e}}, True, "net.params_ema of the checkpoint"),
        (lambda w, e: {"state_dict": w, "ema_state_dict": {"module." + k: v for k, v in e.items()}}, True, "ema_state"),
        (
            lambda w, e: {"meta": {"CLASSES": ("a",)}, "state_dict": w, "optimizer": {"state": {0: e}}, "amp": {}},
            False,
            "state_dict of the checkpoint",
        ),
        (
            lambda w, e: {"model_ema": {"n_averaged": torch.tensor(4), **{"module." + k: v for k, v in e.items()}}},
            True,
            "model_ema of the checkpoint",
        ),
    ],
)
def test_envelopes_and_prefixes(tmp_path, wrap, use_ema, origin):
    weights, averages = {"head.weight": torch.ones(2, 2)}, {"head.weight": torch.zeros(2, 2)}
    torch.save(wrap(weights, averages), tmp_path / "file.pt")
    state = open_state_dict(str(tmp_path / "file.pt"), use_ema)
    assert origin in state.origin
    assert list(state.tensors) == ["head.weight"]
    assert np.asarray(state.tensors["head.weight"]).max() == (0 if use_ema else 1)


@pytest.mark.parametrize(
    ("content", "use_ema", "message"),
    [
        ({"model": {"w": torch.ones(1)}}, True, "no moving averages (state_dict_ema or model_ema): leave --use_ema"),
        ({"w": torch.ones(1)}, True, "no moving averages"),
        ({"model_ema": {"w": torch.ones(1)}}, False, "only moving averages (model_ema): give --use_ema True"),
        ({"weights": {"a": 1}, "epoch": 3}, False, "at its top are 'weights'"),
        ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, False, "it holds several state dicts, a, b: save one"),
        ({"a._orig_mod.w": torch.ones(1), "a.w": torch.ones(1)}, False, "with and without a wrapper"),
        ({"w": torch.ones(1), "name": "net"}, False, "its entry name is no dense tensor but a 'str'"),
        ({"w": torch.ones(1).to_sparse(), "v": torch.ones(1)}, False, "its entry w is no dense tensor"),
        ({"w": torch.ones(1).to(torch.float8_e4m3fn), "v": torch.ones(1)}, False, "w is a float8_e4m3fn tensor, which"),
        ({"model": {"w": torch.ones(1).to(torch.float8_e5m2)}}, False, "save it as float32 or bfloat16, multiplied by"),
        (torch.nn.Linear(2, 2), False, "pickled 'torch.nn.modules.linear.Linear': save its state_dict() instead"),
        ([torch.ones(1)], False, "holds no state dict"),
    ],
)
def test_what_holds_no_state_dict_is_refused(tmp_path, content, use_ema, message):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(InputError) as error:
        open_state_dict(str(tmp_path / "file.pt"), use_ema)
    assert message in str(error.value)


def test_bfloat16_in_safetensors_has_its_values(tmp_path):
    from safetensors.torch import save_file

    values = {"w": torch.randn(3, 5).bfloat16(), "v": torch.arange(4).half(), "i": torch.tensor(7)}
    save_file(values, str(tmp_path / "file.safetensors"))
    state = open_state_dict(str(tmp_path / "file.safetensors"))
    for name, value in values.items():
        same(state.tensors[name], value)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of every hostile file, read in one process that may take 400 MB more than an idle one."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {}
    for name, build in hostile.FILES.items():
        files[name] = str(folder / f"{name}.pth")
        with open(files[name], "wb") as file:
            file.write(build(str(folder / "executed")))
    before = sorted(os.listdir(folder))
    command = [sys.executable, "-m", "tests.helpers.hostile", json.dumps(files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(os.listdir(folder)) == before, "something was written"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", hostile.FILES)
@pytest.mark.process
def test_a_hostile_file_is_refused_with_one_line(outcomes, name):
    kind, message = outcomes[name]
    assert kind == "InputError", message
    assert message.startswith("cannot read ")
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 500


def test_there_are_many_hostile_files():
    assert len(hostile.FILES) >= 60


def test_objects_of_unknown_classes_do_nothing(tmp_path):
    marker = tmp_path / "executed"
    path = tmp_path / "file.pth"
    path.write_bytes(hostile.checkpoint_with(hostile.call("some.module", "anything", str(marker))))
    state = open_state_dict(str(path))
    np.testing.assert_array_equal(np.asarray(state.tensors["w"]), np.arange(6, dtype=np.float32))
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_flipped_bits_never_do_worse_than_a_line(tmp_path, form):
    path = tmp_path / "file.pth"
    content = {"state_dict": {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(3).half()}, "epoch": 1}
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[form])
    whole, rng = path.read_bytes(), np.random.RandomState(0)
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randint(8)
        path.write_bytes(damaged)
        try:
            found = {name: np.asarray(value) for name, value in open_state_dict(str(path)).tensors.items()}
        except InputError:
            refused += 1
            continue
        if form == "zip":  # whatever is read has been compared with its checksum
            for name, value in content["state_dict"].items():
                same(found[name], value)
    assert refused > len(whole) / (3 if form == "zip" else 6)


@pytest.mark.parametrize("form", FORMATS)
def test_truncation_anywhere_is_refused(tmp_path, form):
    path = tmp_path / "file.pth"
    torch.save({"a": torch.randn(20)}, path, _use_new_zipfile_serialization=FORMATS[form])
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            open_state_dict(str(path))


# Files that are something else get the line that says so.


def torchscript(path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    module.save(str(path))


def deflated(path):
    entries = [("s/data.pkl", b"x"), ("s/constants.pkl", b"x"), ("s/code/__torch__.py", b"x")]
    path.write_bytes(hostile.archive(entries, zipfile.ZIP_DEFLATED))


OTHERS = {
    "script.pt": (torchscript, "it is a TorchScript program: save the model's state_dict() instead"),
    "deflated.pt": (deflated, "it is a TorchScript program"),
    "plain.pkl": (
        lambda p: p.write_bytes(pickle.dumps({"w": np.ones((300, 300), np.float32)})),
        "it is a pickle of NumPy arrays: load it in Python and save it with torch.save or safetensors.numpy.save_file",
    ),
    "numbers.pkl": (lambda p: p.write_bytes(pickle.dumps(list(range(999)))), "a pickle, but not one of torch.save"),
    "arrays.npz": (lambda p: np.savez(p, w=np.ones(3)), "it is an .npz archive of NumPy arrays"),
    "array.npy": (lambda p: np.save(p, np.ones(3)), "it is one NumPy array"),
    "a.pth.gz": (lambda p: p.write_bytes(gzip.compress(b"x" * 99)), "it is compressed by gzip: unpack it first"),
    "page.pth": (lambda p: p.write_text("\n<!DOCTYPE html>"), "it is a web page or XML"),
    "recipe.pth": (lambda p: p.write_text("mode: 0\nlr: 0.1\n"), "it is text: give the file that has the weights"),
    "pointer.pth": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "run git lfs pull"),
    "config.json": (lambda p: p.write_text('{"a": 1}'), "it is JSON: give the file that has the weights"),
    "x.index.json": (lambda p: p.write_text('{"a": 1}'), "no index of a checkpoint in parts: its weight_map is mis"),
    "deep.index.json": (lambda p: p.write_text('{"a":' + "[" * 99999), "is not JSON"),
    "folder": (lambda p: p.mkdir(), "is a folder, not a checkpoint"),
    "pipe": (os.mkfifo, "is a pipe or device, not a checkpoint"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_file_is_instead_is_said(tmp_path, name):
    make, message = OTHERS[name]
    make(tmp_path / name)
    with pytest.raises(InputError) as error:
        open_state_dict(str(tmp_path / name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def parts(folder, form):
    """A checkpoint in two parts of the format ``form``, and its index."""
    weights = {"a.w": np.ones((2, 2), np.float32), "b.w": np.full(3, 2, np.float32)}
    names = [f"model-0000{n}-of-00002.{form}" for n in (1, 2)]
    for name, part in zip(names, (["a.w"], ["b.w"])):
        tensors = {key: weights[key] for key in part}
        if form == "safetensors":
            save_file(tensors, str(folder / name))
        else:
            torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, folder / name)
    index = {"metadata": {}, "weight_map": {"a.w": names[0], "b.w": names[1]}}
    path = folder / f"model.{form}.index.json"
    path.write_text(json.dumps(index))
    return path, names, weights, index


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_parts_are_read_by_their_index_and_not_alone(tmp_path, form):
    path, names, weights, index = parts(tmp_path, form)
    tensors = open_state_dict(str(path)).tensors
    assert list(tensors) == list(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(np.asarray(tensors[name]), value)

    def refused(file, message):
        with pytest.raises(InputError, match=message):
            open_state_dict(str(file))

    refused(tmp_path / names[1], r"it is part 2 of 2 of a checkpoint: give the \.index\.json file beside it")
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "c.w": names[0]}}))
    refused(path, r"its parts and the index differ in 'c\.w'")
    path.write_text(json.dumps({"weight_map": {**index["weight_map"], "c.w": "../x.bin"}}))
    refused(path, r"it names a part '\.\./x\.bin' outside its folder")
    path.write_text(json.dumps(index))
    (tmp_path / names[1]).unlink()
    refused(path, r"no part of the checkpoint at .*00002-of-00002")

"""Exported files: written to a temporary folder, verified there, then moved into place.

Weights that do not fit into one file of Protocol Buffers are stored beside it, in ``<file>.data-<checksum>``. An
exported file refers to its data by that name, so an older pair remains valid until the new one is in place.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto

from ..errors import InputError
from ..files import flush
from ..graph import METADATA_KEY, write_mindir
from .graph import OnnxGraph

__all__ = ["OPSET", "atomic_export", "model_of", "write_mindir_file", "write_onnx_file"]

logger = logging.getLogger(__name__)

# Operator set 20 is the first with the exact GELU, and has deformable convolution (19).
OPSET, IR_VERSION, OLDEST_RUNTIME = 20, 9, "1.17"
LARGEST_FILE = 1_900_000_000  # Protocol Buffers are limited to 2 GiB


@contextlib.contextmanager
def atomic_export(path: Path) -> Iterator[Path]:
    """A temporary path to write to; without an error the file, with its data, replaces ``path``.

    Raises:
        InputError: ``path`` is a folder, or its folder is not writable or full.
    """
    if path.is_dir():
        raise InputError(f"output {path} is a folder: choose a file in it.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        yield folder / path.name
        data = sorted(file.name for file in folder.iterdir() if file.name != path.name)
        for name in [*data, path.name]:  # the file last, since it refers to its data
            flush(folder / name)
            os.replace(folder / name, path.parent / name)
        own = re.compile(rf"{re.escape(path.name)}\.data-[0-9a-f]{{8}}")
        for old in path.parent.iterdir():
            if own.fullmatch(old.name) and old.name not in data:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unwritten(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write to {path.parent} ({error.strerror or error}): choose another output.")


def write_onnx_file(graph: OnnxGraph, path: Path, metadata: Dict[str, Any], largest: int = LARGEST_FILE) -> None:
    """Write a graph as ONNX; if the weights exceed ``largest`` bytes in total, they go to a file beside it."""
    import onnx

    external = None
    if sum(value.nbytes for value in graph.constants.values()) > largest:
        external = _write_data(graph.constants, path)
    model = model_of(graph, external)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=external is None)


def _write_data(constants, path) -> Tuple[str, Dict[str, Tuple[int, int]]]:
    """Write the larger arrays to one file: its name, and the offset and length of each array in it."""
    places, checksum, partial = {}, 0, path.with_name(f"{path.name}.data")
    with open(partial, "wb") as file:
        for name, value in constants.items():
            if value.nbytes < 1024:
                continue
            file.seek(-file.tell() % 64, os.SEEK_CUR)
            data = np.ascontiguousarray(value).data.cast("B")
            places[name] = (file.tell(), len(data))
            checksum = zlib.crc32(data, checksum)
            file.write(data)
    return partial.rename(f"{partial}-{checksum:08x}").name, places


def model_of(graph: OnnxGraph, external: Optional[Tuple[str, Dict[str, Tuple[int, int]]]] = None):
    """The ``onnx.ModelProto`` of a graph; ``external`` is a file, and the offset and length of each array in it."""
    from onnx import helper

    def value_info(name):
        shape = ["batch" if size < 0 else size for size in graph.shapes[name]]
        kind = np.int64 if name in graph.integers else np.float32
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)

    file, places = external or ("", {})
    tensors = [_tensor(name, value, file, places.get(name)) for name, value in graph.constants.items()]
    nodes = [helper.make_node(op.type, op.inputs, op.outputs, **op.attributes) for op in graph.operators]
    outputs = [value_info(name) for name in graph.outputs]
    body = helper.make_graph(nodes, "network", [value_info(graph.input)], outputs, tensors)
    logger.info("ONNX operator set %d: for ONNX Runtime %s and newer", OPSET, OLDEST_RUNTIME)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(body, opset_imports=[opset], ir_version=IR_VERSION, producer_name=METADATA_KEY)


def _tensor(name, value, file, place):
    import onnx

    if place is None:
        return onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = onnx.TensorProto(name=name, dims=value.shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for key, entry in zip(("location", "offset", "length"), (file, *place)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def write_mindir_file(network: nn.Cell, shape, path: Path, metadata: Dict[str, Any]) -> None:
    """Write a network as MINDIR; MindSpore stores weights of more than 1 GB in a folder beside it."""
    write_mindir(network, shape, str(path), metadata)
    if not path.exists():
        _rename_parts(path)
    path.chmod(0o644)


def _rename_parts(path):
    """Rename the parts that MindSpore wrote after ``path``."""
    graph, folder = (path.with_name(path.stem + part) for part in ("_graph.mindir", "_variables"))
    model = ModelProto.FromString(graph.read_bytes())
    checksum = 0
    for file in sorted(folder.iterdir()):
        file.chmod(0o644)
        with open(file, "rb") as data:
            while block := data.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
    data = folder.rename(path.with_name(f"{path.name}.data-{checksum:08x}"))
    data.chmod(0o755)
    for parameter in model.graph.parameter:
        place = parameter.external_data
        place.location = f"{data.name}/{Path(place.location).name}"
    graph.unlink()
    path.write_bytes(model.SerializeToString())

"""Checkpoints written atomically, one tensor at a time, and verified by reading them back."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Dict, List, Mapping, Tuple

import numpy as np

from ..errors import InputError, RunError
from .mindspore_file import ckpt_checksum, ckpt_header
from .tensors import ITEM_SIZES, FileTensor

__all__ = ["Entry", "check_file", "write_ckpt", "write_safetensors"]

_SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


@dataclass(frozen=True)
class Entry:
    """A tensor to write: its name, shape, PyTorch's name of its data type, and a function that reads it."""

    name: str
    shape: Tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * ITEM_SIZES[self.kind]

    def content(self) -> np.ndarray:
        """The bytes to write, ``(size,)`` uint8."""
        values = np.asarray(self.read())
        if self.kind == "bfloat16":
            values = _to_bfloat16(values)
        elif values.dtype != self.kind:
            if self.kind == "float16" and np.abs(values[np.isfinite(values)]).max(initial=0) > 65504:
                raise InputError(f"{self.name} has values beyond the range of float16: use --dtype bfloat16.")
            values = values.astype(self.kind)
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _to_bfloat16(values) -> np.ndarray:
    """The upper halves of float32 numbers as uint16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 64, rounded).astype(np.uint16)


def write_ckpt(path: Path, entries: List[Entry], progress: Callable[[int], None]) -> Dict[str, int]:
    """Write MindSpore's format, the whole's checksum at its end; returns the checksums of the tensors by name."""
    checksums, whole = {}, 0
    with open(path, "wb") as file:
        for entry in entries:
            header, content = ckpt_header(entry.name, entry.shape or (0,), entry.kind, entry.size), entry.content()
            file.write(header)
            checksums[entry.name] = _write(file, content, progress)
            whole = zlib.crc32(content, zlib.crc32(header, whole))
        file.write(ckpt_checksum(whole))
    return checksums


def write_safetensors(
    path: Path, entries: List[Entry], progress: Callable[[int], None], metadata: Mapping[str, str]
) -> Dict[str, int]:
    """Write safetensors; returns the checksums of the tensors by name."""
    header, position = {"__metadata__": dict(metadata)}, 0
    for entry in entries:
        place = [position, position + entry.size]
        header[entry.name] = {"dtype": _SAFETENSORS[entry.kind], "shape": list(entry.shape), "data_offsets": place}
        position = place[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        return {entry.name: _write(file, entry.content(), progress) for entry in entries}


def _write(file: BinaryIO, content: np.ndarray, progress: Callable[[int], None]) -> int:
    file.write(content)
    progress(content.size)
    return zlib.crc32(content)


def check_file(
    read: Callable[[], Mapping[str, FileTensor]], entries: List[Entry], checksums: Mapping[str, int]
) -> None:
    """Compare the names, shapes, types and checksums of a written file, which ``read`` reads, with ``entries``.

    Raises:
        RunError: they differ, or the file cannot be read.
    """
    try:
        found = read()
    except InputError as error:
        raise RunError(f"what was written cannot be read back ({error}): check the disk for errors.") from error
    if set(found) != {entry.name for entry in entries}:
        raise RunError("the tensor names read back differ from those written: check the disk for errors.")
    for entry in entries:
        tensor = found[entry.name]
        same_type = (tensor.shape, tensor.kind) == (entry.shape, entry.kind)
        if not same_type or tensor.storage.crc32() != checksums[entry.name]:
            raise RunError(f"{entry.name} read back differs from what was written: check the disk for errors.")

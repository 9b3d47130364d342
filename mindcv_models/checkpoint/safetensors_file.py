"""Safetensors files; limits are checked before anything is parsed."""

import json
import os
from typing import Any, Dict

from safetensors import SafetensorError, safe_open

from ..errors import InputError, shown
from .pickles import Inert
from .tensors import FileTensor, Storage

__all__ = ["is_safetensors", "read_safetensors"]

MAX_HEADER = 16 << 20  # bytes; FasterViT-6's takes 200 thousand
MAX_TENSORS = 100_000

_KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "C64": "complex64",
}  # fmt: skip


def is_safetensors(path: str) -> bool:
    """True for files that begin as safetensors do: eight bytes, the length of a header, then the header's brace."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: str) -> Dict[str, Any]:
    """The tensors of a safetensors file by name, read on demand; those of unknown types are :class:`~.pickles.Inert`.

    Raises:
        InputError: the file is damaged, or larger than any checkpoint in its header or number of tensors.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size - 8 - length
        if size < 0:
            raise InputError("it is not a readable safetensors file (it is truncated): download the file again")
        if length > MAX_HEADER:
            raise InputError(f"its header is larger than {MAX_HEADER >> 20} MB, more than any checkpoint's")
        header = file.read(length)
    entries = _entries(path, header)
    storage = Storage(path, 8 + length, size)
    return {name: _tensor(storage, entry) for name, entry in entries.items()}


def _entries(path, header) -> Dict[str, Dict]:
    if header.count(b"data_offsets") > MAX_TENSORS:
        raise InputError(f"it has more than {MAX_TENSORS:,} tensors, more than any checkpoint")
    try:
        with safe_open(path, framework="np"):  # checks the header: sizes, gaps, overlaps
            pass
        entries = json.loads(header)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        reason = repr(str(error)[:120])
        raise InputError(f"it is not a readable safetensors file ({reason}): download the file again") from error
    entries.pop("__metadata__", None)
    return entries


def _tensor(storage, entry):
    kind = _KINDS.get(entry["dtype"])
    if kind is None:
        return Inert(f"{shown(entry['dtype'])[1:-1]} tensor")
    start, end = entry["data_offsets"]
    own = Storage(storage.path, storage.offset + start, end - start)
    return FileTensor.contiguous(own, kind, tuple(entry["shape"]))

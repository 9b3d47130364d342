"""MindSpore's checkpoint files, written and read one parameter at a time.

A ``.ckpt`` file is a sequence of protocol-buffer messages, one per parameter: its name, shape, type and bytes.
``mindspore.load_checkpoint`` can read the files written here. It and ``mindspore.save_checkpoint`` hold the whole file
in memory twice, which is too much for networks of several gigabytes.
"""

import os
import zlib
from itertools import islice
from typing import BinaryIO, Dict, Iterator, Tuple

from ..errors import InputError, shown
from ..files import require_file
from .tensors import MAX_SIDES, FileTensor, Storage

__all__ = ["ckpt_checksum", "ckpt_header", "is_ckpt", "read_ckpt"]

_TYPES = {
    "float64": "Float64", "float32": "Float32", "float16": "Float16", "bfloat16": "BFloat16", "int64": "Int64",
    "int32": "Int32", "int16": "Int16", "int8": "Int8", "uint8": "UInt8", "bool": "Bool",
}  # fmt: skip
_KINDS = {name: kind for kind, name in _TYPES.items()}

# Fields of the messages: values of a checkpoint; name and tensor of a value; sides, type and bytes of a tensor.
VALUE, TAG, TENSOR, SIDES, TYPE, CONTENT = 1, 1, 2, 1, 2, 3
NUMBER, BYTES = 0, 2  # encodings of a field
CHECKSUM_TAG, CHECKSUM_BYTES = b"crc_num", 17

MAX_TENSORS = 100_000
MAX_FIELDS = 8  # of a value, which has two


def is_ckpt(path: str) -> bool:
    """True for files that begin like MindSpore's checkpoints, whatever their name.

    Raises:
        InputError: the file cannot be opened.
    """
    size = require_file(path, "checkpoint")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the file and its permissions.") from error
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") < size
    is_safetensors |= path.endswith(".safetensors")
    return start[:1] == bytes([VALUE << 3 | BYTES]) and not is_safetensors


def ckpt_header(name: str, shape: Tuple[int, ...], kind: str, size: int) -> bytes:
    """The header before the ``size`` bytes of a parameter."""
    tensor = b"".join(_number(SIDES << 3 | NUMBER) + _number(side) for side in shape)
    tensor += _field(TYPE, _TYPES[kind].encode()) + _number(CONTENT << 3 | BYTES) + _number(size)
    value = _field(TAG, name.encode()) + _number(TENSOR << 3 | BYTES) + _number(len(tensor) + size) + tensor
    return _number(VALUE << 3 | BYTES) + _number(len(value) + size) + value


def ckpt_checksum(checksum: int) -> bytes:
    """The end of a file: the CRC-32 of all bytes before it."""
    return CHECKSUM_TAG + checksum.to_bytes(CHECKSUM_BYTES - len(CHECKSUM_TAG), "big")


def _number(value: int) -> bytes:
    """Seven bits per byte, the lowest first; the eighth bit is set if more bytes follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(field: int, content: bytes) -> bytes:
    return _number(field << 3 | BYTES) + _number(len(content)) + content


def read_ckpt(path: str) -> Dict[str, FileTensor]:
    """The parameters of a ``.ckpt`` file by name; their values are read on demand.

    Raises:
        InputError: the file is damaged, or has parameters that are not complete tensors.
    """
    tensors = {}
    try:
        with open(path, "rb") as file:
            size = _checked_end(file)
            while file.tell() < size:
                if len(tensors) == MAX_TENSORS:
                    raise ValueError(f"more than {MAX_TENSORS:,} parameters")
                name, tensor = _read_value(file, path, size)
                if name in tensors:
                    raise ValueError("two parameters with the same name")
                tensors[name] = tensor
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is not a complete MindSpore checkpoint ({error}): use another one.") from error
    return tensors


def _checked_end(file: BinaryIO) -> int:
    """The offset at which the parameters end: MindSpore's ``crc_check`` puts a checksum behind."""
    size = os.fstat(file.fileno()).st_size
    end = max(size - CHECKSUM_BYTES, 0)
    file.seek(end)
    last = file.read(CHECKSUM_BYTES)
    file.seek(0)
    if not last.startswith(CHECKSUM_TAG):
        return size
    checksum, remaining = 0, end
    while remaining:
        chunk = file.read(min(remaining, 1 << 20))
        checksum, remaining = zlib.crc32(chunk, checksum), remaining - len(chunk)
    if checksum != int.from_bytes(last[len(CHECKSUM_TAG) :], "big"):
        raise ValueError("its checksum does not match")
    file.seek(0)
    return end


def _read_value(file: BinaryIO, path, size):
    tag, start, end = next(_fields(file, file.tell(), size))
    if tag != VALUE:
        raise ValueError(f"field {tag}")
    parts = {field: (start, end) for field, start, end in islice(_fields(file, start, end), MAX_FIELDS)}
    if not parts.keys() >= {TAG, TENSOR}:
        raise ValueError("a parameter without a name or values")
    name = _bytes(file, *parts[TAG]).decode()
    if not name.isprintable() or len(name) > 300:
        raise ValueError("a name that no parameter has")
    shape, kind, storage = [], "", None
    for count, (field, start, end) in enumerate(_fields(file, *parts[TENSOR])):
        if count == MAX_SIDES + 2:
            raise ValueError(f"{name} has more than {MAX_SIDES} dimensions")
        if field == SIDES:
            shape.append(start)
        elif field == TYPE:
            kind = shown(_bytes(file, start, end).decode())[1:-1]
        elif field == CONTENT:
            storage = Storage(path, start, end - start)
    if kind not in _KINDS or storage is None:
        raise ValueError(f"{name} is {kind or 'nothing'}, not a tensor of numbers")
    file.seek(max(end for _, end in parts.values()))
    shape = tuple(shape) if shape != [0] else ()
    return name, FileTensor.contiguous(storage, _KINDS[kind], shape)


def _fields(file: BinaryIO, position: int, end: int) -> Iterator[Tuple[int, int, int]]:
    """Number, start and end of each field between two offsets; for an integer field, the value takes their place."""
    while position < end:
        file.seek(position)
        field, coding = divmod(_read_number(file), 8)
        value = _read_number(file)
        start = file.tell()
        if coding == NUMBER:
            position = start
            yield field, value, value
        elif coding == BYTES and start + value <= end:
            position = start + value
            yield field, start, position
        else:
            raise ValueError(f"field {field} is truncated")


def _bytes(file, start, end) -> bytes:
    if end - start > 4096:
        raise ValueError("a name of more than 4096 bytes")
    file.seek(start)
    return file.read(end - start)


def _read_number(file) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
        if shift > 63:
            raise ValueError("a number of more than ten bytes")

"""Tensors that are read from their file on demand."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Tuple

import numpy as np

from ..errors import InputError

__all__ = ["ITEM_SIZES", "MAX_SIDES", "FileTensor", "Storage"]

# NumPy's types by PyTorch's names; bfloat16, which NumPy lacks, is the upper half of a float32.
ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip

# A view can repeat elements (stride 0). It may exceed the size of its storage by this number of bytes.
REPEATED_BYTES = 64 << 20
MAX_SIDES = 32
CHUNK = 1 << 20


@dataclass
class Storage:
    """``size`` bytes at ``offset`` of the file ``path``.

    Attributes:
        checksum: CRC-32 according to the file; verified when the bytes are first read.
        little_endian: byte order of the numbers.
    """

    path: str
    offset: int
    size: int
    checksum: int | None = None
    little_endian: bool = True

    def read(self, start: int, size: int) -> np.ndarray:
        """``size`` bytes from ``start`` on, ``(size,)`` uint8; a part of a storage is memory-mapped, not copied.

        Raises:
            InputError: the checksum does not match.
        """
        if size == 0:
            return np.empty(0, np.uint8)
        if size == self.size:
            data = np.fromfile(self.path, np.uint8, size, offset=self.offset)
            self._compare(zlib.crc32(data))
            return data
        if self.checksum is not None:
            self._compare(self.crc32())
        return np.memmap(self.path, np.uint8, "r", self.offset + start, (size,))

    def crc32(self) -> int:
        """The checksum of the bytes in the file, read in chunks."""
        checksum, remaining = 0, self.size
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while remaining and (chunk := file.read(min(remaining, CHUNK))):
                checksum, remaining = zlib.crc32(chunk, checksum), remaining - len(chunk)
        return checksum

    def _compare(self, checksum):
        if self.checksum not in (None, checksum):
            raise InputError(
                f"cannot read {self.path}: the checksum of its data does not match: download the file again."
            )
        self.checksum = None


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file: ``np.asarray`` reads it; bfloat16 becomes float32 with the same values.

    Attributes:
        shape, strides: as in PyTorch; strides and ``offset`` count elements of ``storage``.
        kind: PyTorch's name of the data type.

    Raises:
        InputError: on construction, if the tensor exceeds its storage.
    """

    storage: Storage
    kind: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    offset: int = 0

    def __post_init__(self):
        numbers = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_SIDES:
            raise InputError(
                "the file contains a tensor whose strides do not match its dimensions: download the file again"
            )
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise InputError("the file contains a tensor with an invalid size: download the file again")
        span, item = self._span(), ITEM_SIZES[self.kind]
        if span and (self.offset + span) * item > self.storage.size:
            raise InputError("the file contains a tensor that exceeds its storage: download the file again")
        if self.size * item > self.storage.size + REPEATED_BYTES:
            raise InputError("the file contains a tensor that is far larger than its storage: save it contiguously")

    @classmethod
    def contiguous(cls, storage: Storage, kind: str, shape: Tuple[int, ...]) -> FileTensor:
        """The tensor that fills ``storage`` in row-major order."""
        if len(shape) > MAX_SIDES:
            raise InputError(f"the file contains a tensor of more than {MAX_SIDES} dimensions: download the file again")
        strides = [1] * len(shape)
        for axis in range(len(shape) - 1, 0, -1):
            strides[axis - 1] = strides[axis] * shape[axis]
        tensor = cls(storage, kind, shape, tuple(strides))
        if tensor.size * ITEM_SIZES[kind] != storage.size:
            raise InputError("the file contains a tensor whose size differs from its data: download the file again")
        return tensor

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for side in self.shape:
            size *= side
        return size

    @property
    def dtype(self) -> np.dtype:
        """The data type of ``np.asarray``'s result."""
        return np.dtype(np.float32 if self.kind == "bfloat16" else self.kind)

    def _span(self) -> int:
        """Number of storage elements from the tensor's first to its last."""
        if self.size == 0:
            return 0
        return 1 + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides))

    def __array__(self, dtype=None, copy=None):
        item = ITEM_SIZES[self.kind]
        stored = np.dtype(np.uint16 if self.kind == "bfloat16" else self.kind)
        data = self.storage.read(self.offset * item, self._span() * item)
        data = data.view(stored if self.storage.little_endian else stored.newbyteorder(">"))
        strides = [stride * item for stride in self.strides]
        array = np.lib.stride_tricks.as_strided(data, self.shape, strides, writeable=False)
        if self.kind == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(dtype or self.dtype, copy=False)

"""Tensors that stay in their file until they are asked for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Tuple

import numpy as np

from ..errors import InputError

__all__ = ["ITEM_SIZES", "FileTensor", "Storage"]

# NumPy's types by PyTorch's names; bfloat16, which NumPy lacks, is the upper half of a float32.
ITEM_SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip

# A view can repeat its elements (stride 0). Beyond its storage it may take this much memory.
REPEATED_BYTES = 64 << 20
CHUNK = 1 << 20


@dataclass
class Storage:
    """``size`` bytes at ``offset`` of the file ``path``.

    Attributes:
        checksum: CRC-32 that the file gives for them; compared when they are first read.
        little_endian: byte order of the numbers in it.
    """

    path: str
    offset: int
    size: int
    checksum: int | None = None
    little_endian: bool = True

    def read(self, start: int, size: int) -> np.ndarray:
        """``size`` bytes from ``start`` on, ``(size,)`` uint8; part of a storage is mapped rather than copied.

        Raises:
            InputError: the storage is not what its checksum says.
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
        """The checksum of the bytes in the file, read a little at a time."""
        found, left = 0, self.size
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while left and (chunk := file.read(min(left, CHUNK))):
                found, left = zlib.crc32(chunk, found), left - len(chunk)
        return found

    def _compare(self, found):
        if self.checksum not in (None, found):
            raise InputError(
                f"cannot read {self.path}: its data do not have the checksum that it gives: get the file again."
            )
        self.checksum = None


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file: ``np.asarray`` reads it, bfloat16 as float32 with the same values.

    Attributes:
        shape, strides: as PyTorch has them; strides and ``offset`` count elements of ``storage``.
        kind: PyTorch's name of the type.

    Raises:
        InputError: on construction, the tensor does not lie within its storage.
    """

    storage: Storage
    kind: str
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    offset: int = 0

    def __post_init__(self):
        numbers = (*self.shape, *self.strides, self.offset)
        if len(self.shape) != len(self.strides) or len(self.shape) > 32:
            raise InputError("a tensor of it has not as many strides as dimensions: get the file again")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise InputError("a tensor of it has a size that is no size: get the file again")
        span, item = self._span(), ITEM_SIZES[self.kind]
        if span and (self.offset + span) * item > self.storage.size:
            raise InputError("a tensor of it reaches beyond its storage: get the file again")
        if self.size * item > self.storage.size + REPEATED_BYTES:
            raise InputError("a tensor of it is far larger than its storage: save it contiguously")

    @classmethod
    def contiguous(cls, storage: Storage, kind: str, shape: Tuple[int, ...]) -> FileTensor:
        """The tensor that fills ``storage``, row by row."""
        strides = [1] * len(shape)
        for axis in range(len(shape) - 1, 0, -1):
            strides[axis - 1] = strides[axis] * shape[axis]
        tensor = cls(storage, kind, shape, tuple(strides))
        if tensor.size * ITEM_SIZES[kind] != storage.size:
            raise InputError("a tensor of it has another size than its data: get the file again")
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
        """NumPy's type of what ``np.asarray`` gives."""
        return np.dtype(np.float32 if self.kind == "bfloat16" else self.kind)

    def _span(self) -> int:
        """Elements of the storage from the tensor's first to its last."""
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

"""Files of ``torch.save``, read without PyTorch and without executing code in them.

Both formats are supported: zip archives, and the format before PyTorch 1.6, pickles followed by the data. In a zip
archive ``<name>/data.pkl`` holds the objects and ``<name>/data/<key>`` the bytes of each storage, uncompressed.
"""

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, Dict

from ..errors import InputError, shown
from .pickles import MAX_BYTES, Builders, Global, Inert, read_pickle
from .tensors import ITEM_SIZES, FileTensor, Storage

__all__ = ["read_torch_file"]

MAX_DIRECTORY = 8 << 20  # bytes of a zip archive's directory: about 80 thousand entries
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_MODULES = ("torch", "torch.cuda", "torch.storage")
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
_QUANTISED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4}  # their tensors are skipped

# Exceptions of zipfile for damaged archives.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, EOFError, RuntimeError, struct.error)


def read_torch_file(path: str) -> Any:
    """The result of ``torch.load(path)``, with a :class:`FileTensor` for every dense tensor.

    Objects of other classes are :class:`~.pickles.Inert`.

    Raises:
        InputError: the file was not written by ``torch.save``, or is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(4096)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            return _Archive(path, file).load()
        if start.startswith(b"\x80") and LEGACY_MAGIC.to_bytes(10, "little") in start[:32]:
            return _Legacy(path, file).load()
    raise InputError(_kind(path, start))


def _kind(path: str, start: bytes) -> str:
    """What a file that is no PyTorch checkpoint is, by its name and first bytes, and what to do."""
    for magic, words in _OTHER_FILES.items():
        if start.startswith(magic):
            return words
    if start[257:262] == b"ustar":
        return "it is a tar archive; if PyTorch 0.1 wrote it, load and save it with PyTorch 1.0 to 1.5, else unpack it"
    if not start:
        return "it is empty: get the file again"
    if str(path).endswith((".onnx", ".mindir")):
        return "it is an exported network, of which no weights are read: give the checkpoint that it was made from"
    if start.startswith(b"\x80"):
        what = "a pickle of NumPy arrays" if b"numpy" in start else "a pickle, but not one of torch.save"
        return f"it is {what}: load it in Python and save it with torch.save or safetensors.numpy.save_file"
    if start.lstrip()[:1] == b"<":
        return "it is a web page or XML: the download gave that instead of the file"
    if start.lstrip()[:1] == b"{":
        return "it is JSON: give the file that has the weights, or an index whose name ends in .index.json"
    if start.isascii() and start.decode().replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return "it is text: give the file that has the weights, a .ckpt, .pth, .pt, .bin or .safetensors"
    return f"it is no PyTorch checkpoint, for it begins with {start[:16]!r}: check that it was downloaded completely"


_OTHER_FILES = {
    b"\x1f\x8b": "it is compressed by gzip: unpack it first",
    b"\x89HDF": "it is an HDF5 file, as Keras writes: convert it to a PyTorch or safetensors state dict first",
    b"\x93NUMPY": "it is one NumPy array: give a state dict saved with torch.save or safetensors",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: run git lfs pull",
}


@dataclass(frozen=True)
class _View:
    """What a persistent id stands for; no pickle can make one otherwise."""

    storage: Storage
    kind: str
    start: int


class _Contents:
    """The common part of both formats: tensors are views of storages, which persistent ids refer to."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.storages: Dict[str, Storage] = {}
        self.builders: Builders = {
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("torch._utils", "_rebuild_parameter_with_state"): _first,
            ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
            ("torch", "Size"): _size,
        }

    def persistent(self, identifier):
        """The storage of ``("storage", class, key, location, number of elements, ...)``, with its type."""
        if isinstance(identifier, tuple) and identifier[:1] == ("module",):  # source text of a pickled network
            return Inert(Global("torch.nn", "Module"))
        if not isinstance(identifier, tuple) or not 5 <= len(identifier) <= 6:
            raise ValueError("not a storage")
        tag, cls, key, _, count = identifier[:5]
        if tag != "storage" or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 48:
            raise ValueError("not a storage")
        if isinstance(cls, Global) and cls.name in _QUANTISED:
            self.storage(key, count, _QUANTISED[cls.name])
        if not isinstance(cls, Global) or cls.module not in _MODULES or cls.name not in _STORAGES:
            return Inert(cls)
        kind = _STORAGES[cls.name]
        view = identifier[5] if len(identifier) == 6 else None  # (key, first element, number of elements)
        return _View(self.storage(key, count, ITEM_SIZES[kind]), kind, view[1] if view else 0)

    def storage(self, key, count, item_size) -> Storage:
        """The storage of ``count`` elements."""
        raise NotImplementedError


# Replacements of PyTorch's functions, with the same bounded number of arguments.


def _size(sizes=()):
    if not isinstance(sizes, tuple):
        raise TypeError("a size that is not a tuple")
    return sizes


def _tensor(storage, offset, shape, strides, requires_grad=None, hooks=None, metadata=None):
    if isinstance(storage, Inert) or (isinstance(metadata, dict) and (len(metadata) > 8 or any(metadata.values()))):
        return Inert(Global("torch", "Tensor"))  # quantised, or lazily negated or conjugated
    if not isinstance(storage, _View):
        raise TypeError("a tensor of something else than a storage")
    return FileTensor(storage.storage, storage.kind, tuple(shape), tuple(strides), storage.start + offset)


def _tensor_of_type(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    if isinstance(storage, Inert) or not isinstance(dtype, Global):
        return Inert(Global("torch", "Tensor"))
    if dtype.name not in ITEM_SIZES:
        return Inert(f"{dtype.name[:40]} tensor")
    if not isinstance(storage, _View):
        raise TypeError("a tensor of something else than a storage")
    return _tensor(_View(storage.storage, dtype.name, 0), offset, shape, strides, metadata=metadata)


def _first(data, requires_grad=None, hooks=None, state=None):
    return data


def _subclass(function, cls, arguments, state):
    build = {"_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _tensor_of_type, "_rebuild_parameter": _first}
    known = build.get(function.name) if isinstance(function, Global) else None
    return known(*arguments) if known else Inert(cls)


class _Archive(_Contents):
    """The zip format."""

    def load(self):
        try:
            self.zip = zipfile.ZipFile(_LimitedFile(self.file))
            self.entries = {info.filename: info for info in self.zip.infolist()}
            self.check()
            self.prefix = self._prefix()
            self.little_endian = self._little_endian()
            return read_pickle(self._small(f"{self.prefix}data.pkl"), self.builders, self.persistent)[0]
        except InputError:
            raise
        except (*_DAMAGE, OSError) as error:
            reason = repr(str(error)[:120])
            raise InputError(f"its zip archive is damaged or truncated ({reason}): download the file again") from error

    def check(self):
        """Raise InputError for anything that PyTorch's archives do not have, before reading entries."""
        infos = self.zip.infolist()
        names = [info.filename.rpartition("/")[2] for info in infos]
        if "constants.pkl" in names:
            raise InputError("it is a TorchScript program: save the model's state_dict() instead")
        if names and all(name.endswith(".npy") for name in names):
            raise InputError("it is an .npz archive of NumPy arrays: save them with safetensors.numpy.save_file")
        if len(self.entries) != len(infos):
            raise InputError("its zip archive has two entries with the same name: do not trust it")
        for info in infos:
            parts = info.filename.split("/")
            if ".." in parts or parts[0] == "" or "\\" in info.filename or info.orig_filename != info.filename:
                raise InputError(f"its zip archive has an entry {shown(info.filename)}: do not trust it")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
                raise InputError(
                    "its zip archive is compressed, which PyTorch never does: save it with torch.save again"
                )
        if sum(info.file_size for info in infos) > self.size:
            raise InputError("its zip archive claims more data than the file contains: do not trust it")

    def _prefix(self) -> str:
        found = [name[: -len("data.pkl")] for name in self.entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise InputError(
                "it is a zip archive without data.pkl, not a file of torch.save: save the state dict with torch.save"
            )
        return found[0]

    def _little_endian(self) -> bool:
        name = f"{self.prefix}byteorder"
        order = self._small(name) if name in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise InputError(f"its byte order is {order[:16]!r}: download the file again")
        return order == b"little"

    def _small(self, name) -> bytes:
        if self.entries[name].file_size > MAX_BYTES:
            raise InputError(
                f"its {name[:80]!r} is larger than {MAX_BYTES >> 20} MB, more than in any checkpoint: do not trust it"
            )
        with self.zip.open(name) as file:  # verifies the checksum
            return b"".join(iter(lambda: file.read(1 << 20), b""))

    def storage(self, key, count, item_size):
        if key not in self.storages:
            info = self.entries.get(f"{self.prefix}data/{key}")
            if info is None:
                raise InputError(f"its zip archive lacks the data {key[:80]!r}: download the file again")
            start = self._start(info)
            self.storages[key] = Storage(self.path, start, info.file_size, info.CRC, self.little_endian)
        if self.storages[key].size != count * item_size:
            raise InputError("the size of a storage differs from its pickle: download the file again")
        return self.storages[key]

    def _start(self, info) -> int:
        """The offset of an entry's bytes, after its local header, whose lengths may differ from the directory's."""
        self.file.seek(info.header_offset)
        header = self.file.read(30)
        signature, name, extra = header[:4], *struct.unpack("<HH", header[26:])
        start = info.header_offset + 30 + name + extra
        if signature != b"PK\x03\x04" or start + info.file_size > self.size:
            raise InputError("its zip archive is damaged: download the file again")
        return start


class _LimitedFile(io.RawIOBase):
    """A file for ``zipfile`` that limits the size of the directory, which an archive could claim to be huge."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def read(self, size=-1):
        if size > MAX_DIRECTORY:
            raise InputError("its zip archive has a directory larger than that of any checkpoint: do not trust it")
        return self.file.read(size)

    def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    def tell(self):
        return self.file.tell()

    def seekable(self):
        return True

    def readable(self):
        return True


class _Legacy(_Contents):
    """The format before PyTorch 1.6: magic number, protocol, machine, objects, keys, and each key's data in turn."""

    def load(self):
        self.counts: Dict[str, int] = {}
        if self._next(256) != LEGACY_MAGIC:
            raise InputError("it is a pickle, but not one of torch.save: save the state dict with torch.save")
        if self._next(256) != LEGACY_PROTOCOL:
            raise InputError("it has a protocol version that PyTorch never wrote: download the file again")
        self._next(4096)  # sizes of types on the machine; the data are always little-endian
        content, keys = self._next(), self._next()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise InputError("its list of storages is damaged: download the file again")
        self._locate(keys)
        return content

    def _next(self, size=MAX_BYTES + 1):
        position = self.file.tell()
        value, length = read_pickle(self.file.read(size), self.builders, self.persistent)
        self.file.seek(position + length)
        return value

    def storage(self, key, count, item_size):
        """A storage; its offset is unknown until the list of keys has been read."""
        storage = self.storages.setdefault(key, Storage(self.path, 0, count * item_size))
        if self.counts.setdefault(key, count) != count or storage.size != count * item_size:
            raise InputError("one of its storages has two sizes: download the file again")
        return storage

    def _locate(self, keys):
        """Find the data of each storage: eight bytes for the number of elements, then the elements."""
        if len(set(keys)) != len(keys) or set(keys) != set(self.storages):
            raise InputError("its list of storages does not match its tensors: download the file again")
        for key in keys:
            count = self.file.read(8)
            storage = self.storages[key]
            storage.offset = self.file.tell()
            if count != struct.pack("<q", self.counts[key]) or storage.offset + storage.size > self.size:
                raise InputError("it is truncated, or its data are misplaced: download the file again")
            self.file.seek(storage.size, os.SEEK_CUR)

"""Files: written completely or not at all, and read as what they are to be, or refused in one line."""

import contextlib
import functools
import json
import math
import os
import re
import shutil
import stat
import struct
import tempfile
import time
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

import numpy as np

from .errors import InputError, shown

__all__ = [
    "atomic_folder",
    "atomic_output",
    "atomic_write",
    "cache_folder",
    "flush",
    "partial_path",
    "read_arrays",
    "read_json",
    "read_text",
    "refuse_overwriting",
    "remove_partials",
    "require_file",
    "temporary_cache",
    "write_text",
]

MAX_TEXT = 64 << 20  # bytes
MAX_ARRAYS = 100_000
LEFT_OVER = 24 * 3600  # seconds after which a temporary file belongs to no running process


def flush(path: Path) -> None:
    """Wait until the file ``path``, or every file in that folder, is on the disk."""
    for each in [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]:
        with open(each, "rb+") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; without an error it replaces ``path``, flushed to disk first.

    Until then a file that is at ``path`` stays as it is, and after an error nothing is left of the temporary one. A
    link at ``path`` is replaced, not followed. The temporary name has the suffix of ``path``, since some writers go by
    it.

    Raises:
        OSError: naming ``path``, if it cannot be written.
    """
    partial = partial_path(path, path.suffix)
    _sweep_once(str(path.parent))
    _remove(partial)
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        _remove(partial)


@contextlib.contextmanager
def atomic_output(path: Path, option: str = "output") -> Iterator[Path]:
    """As :func:`atomic_write`, for a file that the option ``option`` names.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with atomic_write(path) as partial:
            yield partial
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): choose another {option}.") from error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; without an error it becomes ``path``, which must be free."""
    partial = partial_path(path)
    remove_partials(path.parent, path.name)
    _remove(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(path)
    finally:
        _remove(partial)


def partial_path(path: Path, suffix: str = "") -> Path:
    """Where this process writes what is to become ``path``; the name tells which process that is."""
    stem = path.name[: len(path.name) - len(suffix)]
    return path.with_name(f".{stem}.{os.getpid()}-{_host()}.partial{suffix}")


def remove_partials(folder: Path, stem: str = "") -> None:
    """Remove temporary files and folders that killed processes left in ``folder``.

    The process must be gone, or for one of another host the file unchanged for a day.

    Args:
        stem: of what they were to become; by default anything.
    """
    name = re.compile(rf"\.{re.escape(stem) or '.*'}\.(\d{{1,9}})(?:-([^.]*))?\.partial(\..*)?", re.ASCII)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            found = name.fullmatch(entry.name)
            if found and _is_left(entry, int(found[1]), found[2]):
                _remove(Path(entry.path))


@functools.cache
def _sweep_once(folder: str) -> None:
    """:func:`remove_partials` before this process first writes into a folder; a large one takes a while to list."""
    remove_partials(Path(folder))


def _host() -> str:
    return re.sub(r"\W", "_", os.uname().nodename)[:32]


def _is_left(entry: os.DirEntry, process: int, host: Optional[str]) -> bool:
    if host == _host():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it lives, but is another user's
    with contextlib.suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_OVER
    return False


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if that can be done: an error before this one is the one to show."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def cache_folder() -> Path:
    """The user's folder for what can be made or fetched again; with the temporary files where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mindcv_models")
    except RuntimeError:  # a user without a home
        return temporary_cache()


def temporary_cache() -> Path:
    """A folder of this user's with the temporary files."""
    return Path(tempfile.gettempdir(), f"mindcv_models-{os.getuid()}")


def require_file(path: Union[str, Path], kind: str, advice: str = "check the path") -> int:
    """The size of a regular file in bytes. Anything else is refused without opening it, as a pipe would block.

    Args:
        kind: what the file should be, such as "checkpoint".
        advice: the end of the message.

    Raises:
        InputError: there is no such file, it is a folder or a device, or may not be looked at.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        reason = "" if isinstance(error, FileNotFoundError) else f" ({reason})"
        raise InputError(f"no {kind} at {path}{reason}: {advice}.") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise InputError(f"{path} is {what}, not a {kind}: {advice}.")
    return status.st_size


def refuse_overwriting(output: Union[str, Path], option: str, *inputs: Union[str, Path, None]) -> None:
    """Raise InputError if ``output``, which ``option`` names, is one of the files that are read."""
    for path in filter(None, inputs):
        try:
            is_same = os.path.samefile(output, path)
        except (OSError, ValueError):  # one of them is not there
            continue
        if is_same:
            raise InputError(f"{option} is {output}, which is read too and would be lost: choose another file.")


def read_text(path: Union[str, Path], kind: str, limit: int = MAX_TEXT) -> str:
    """A whole text file, UTF-8 with or without a byte-order mark.

    Raises:
        InputError: it is no regular file, cannot be read, is larger than ``limit`` bytes, or is not UTF-8.
    """
    if require_file(path, kind) > limit:
        raise InputError(f"{path} is larger than {limit >> 20} MB: that is no {kind}.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if "\0" in text:  # which UTF-16 without a mark is full of
            raise UnicodeError
        return text
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check its permissions.") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save the {kind} as UTF-8.") from error


def read_json(path: Union[str, Path], kind: str, limit: int = MAX_TEXT) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: as :func:`read_text`, or it is not JSON, is nested too deep, or has a key twice in one object, of
            which Python would take the last one without a word.
    """

    def without_twins(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path} has the key {shown(twice)} twice in one object: leave one of them out.")
        return found

    try:
        return json.loads(read_text(path, kind, limit), object_pairs_hook=without_twins)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
        raise InputError(f"{path} is not JSON ({reason}): write the {kind} again.") from error


# What zipfile, zlib and NumPy raise for archives that are damaged, encrypted or false.
_BAD_ARCHIVE = (
    OSError, ValueError, KeyError, IndexError, EOFError, RuntimeError, TypeError, SyntaxError, MemoryError,
    OverflowError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip


def read_arrays(path: Union[str, Path], kind: str, limit: Optional[int] = None) -> Dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name. Sizes are compared before anything is allocated.

    Args:
        limit: bytes that the arrays may have together; by default as many as the file, so a compressed one is refused.

    Raises:
        InputError: it is no regular file, no such archive, damaged, or larger than ``limit``.
    """
    limit = require_file(path, kind) if limit is None else limit
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > limit or len(members) > MAX_ARRAYS:
                raise InputError(f"{path} unpacks to more than a {kind} can hold: do not trust it.")
            if len({member.filename for member in members}) < len(members):
                raise InputError(f"{path} has two arrays of one name: do not trust it.")
            return {member.filename.removesuffix(".npy"): _read_array(archive, member) for member in members}
    except InputError:
        raise
    except _BAD_ARCHIVE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path} is no whole .npz file ({reason}): write the {kind} again.") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read_header(file)
        count = math.prod(shape)
        if kind.hasobject or min(shape, default=0) < 0 or count * kind.itemsize > member.file_size:
            raise ValueError("an array is larger than its data")
        array = np.empty(count, kind)
        rest = memoryview(array.view(np.uint8)) if array.nbytes else b""
        while len(rest):
            read = file.readinto(rest)
            if not read:
                raise EOFError("an array is larger than its data")
            rest = rest[read:]
        if file.read(1):  # at the end the checksum is compared
            raise ValueError("an array is smaller than its data")
    return array.reshape(shape, order="F" if fortran else "C")

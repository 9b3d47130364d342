"""Compiled graphs that a later process finds again, by everything that they are made of.

MindSpore's own compile cache finds an entry by its place among the compilations of a process and by the text of the
script's own modules. Options, shapes, versions and installed packages do not count, so it returns other graphs than
those that were asked for. Here an entry is named by a digest of all of them, only one graph of a process takes part,
and what cannot be described is not cached.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common import dtype as types_of_mindspore

from . import backend

__all__ = ["UndescribedError", "compile_cached", "fingerprint"]

logger = logging.getLogger(__name__)

# What a cell keeps of its own compilations and of when it was made.
_BOOKKEEPING = {
    "_create_time", "_compile_cache", "_phase_cache", "_compile_phase", "arguments_key", "_id", "_phase",
    "_has_mutable_args_list", "sequence_modified", "total_instance_count", "_cell_init_args",
}  # fmt: skip
_PLAIN = {type(None), type(Ellipsis), bool, int, float, complex, str, bytes}
_CONTEXT = ("mode", "device_target", "enable_graph_kernel", "graph_kernel_flags", "jit_level", "max_call_depth")
_KNOWN = ("mindcv_models", "mindcv", "mindspore")
_used = False


class UndescribedError(Exception):
    """Something that a graph may depend on cannot be described."""


class _Description:
    """A digest of an object and of all that it refers to."""

    def __init__(self):
        self.words = []
        self.seen = {}
        self.parameters = []

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.words).encode("utf-8", "backslashreplace")).hexdigest()

    def say(self, *words):
        self.words.append(repr(words))

    def add(self, value, where=""):
        if type(value) in _PLAIN:
            return self.words.append("now" if type(value) is int and _is_recent(value) else repr(value))
        if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, np.dtype, Path, slice, range)):
            return self.say("plain", repr(value))
        if isinstance(value, types_of_mindspore.Type) or type(value).__module__.startswith(
            "mindspore._c_expression.typing"
        ):
            return self.say("type", str(value))
        if id(value) in self.seen:
            return self.say("again", self.seen[id(value)][0])
        self.seen[id(value)] = len(self.seen), value
        self.say(type(value).__module__, type(value).__qualname__)
        self.describe(value, where)

    def describe(self, value, where):
        if isinstance(value, Parameter):
            self.parameters.append(value)
            self.say(value.name, value.shape, value.dtype, value.requires_grad)
        elif isinstance(value, Tensor):
            value = value.asnumpy()
            self.say(value.shape, value.dtype, hashlib.sha256(value.tobytes()).hexdigest())
        elif isinstance(value, (np.ndarray, np.generic)):
            self.say(value.shape, value.dtype, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
        elif isinstance(value, (list, tuple)):
            self.say(len(value))
            for item in value:
                self.add(item, where)
        elif isinstance(value, dict):
            self.items(value, where)
        elif isinstance(value, (set, frozenset)):
            self.say(sorted(map(repr, value)))
        elif isinstance(value, functools.partial):
            self.add((value.func, value.args, value.keywords), where)
        elif isinstance(value, types.MethodType):
            self.add((value.__func__, value.__self__), where)
        elif isinstance(value, types.FunctionType):
            self.function(value, where)
        elif isinstance(value, ops.Primitive):
            self.say(value.name)
            self.items({**value.attrs, **vars(value)}, where)
        elif isinstance(value, nn.Cell):
            self.items({k: v for k, v in vars(value).items() if k not in _BOOKKEEPING}, where)
        elif type(value).__module__.partition(".")[0] in ("mindcv_models", "mindcv", "mindspore") and hasattr(
            value, "__dict__"
        ):
            self.items(vars(value), where)
        else:
            raise UndescribedError(f"{where}: {type(value).__module__}.{type(value).__qualname__}")

    def items(self, mapping, where):
        self.say(len(mapping))
        for key, item in mapping.items():
            self.add(key, where)
            self.add(item, f"{where}.{key}")

    def function(self, value, where):
        code = value.__code__
        self.say(value.__module__, value.__qualname__, code.co_filename, code.co_firstlineno, code.co_code.hex())
        self.add([cell.cell_contents for cell in value.__closure__ or ()], where)
        self.add((value.__defaults__, value.__kwdefaults__), where)


def _is_recent(number: int) -> bool:
    """Whether a number is a time of today in nanoseconds, by which MindSpore tells objects from each other."""
    return abs(number - time.time_ns()) < 86_400_000_000_000


def fingerprint(cell: nn.Cell, inputs) -> str:
    """A digest of the cell, of the inputs' shapes and types, and of the software and settings that compile them.

    Raises:
        UndescribedError: something is of an unknown kind, or a parameter is not one that the cell lists under its name.
    """
    return _described(cell, inputs)[0]


def _described(cell, inputs):
    """The digest, and all parameters by name."""
    description = _Description()
    description.add(cell, type(cell).__name__)
    parameters = cell.parameters_dict()
    for parameter in description.parameters:
        if parameters.setdefault(parameter.name, parameter) is not parameter:
            raise UndescribedError(f"two parameters are called {parameter.name}")
    for tensor in inputs:
        description.say(tensor.shape, tensor.dtype)
    description.say(
        cell.training, ms.get_seed(), ms.__version__, sys.version, *(ms.get_context(name) for name in _CONTEXT)
    )
    description.say(sorted((k, v) for k, v in os.environ.items() if k.startswith(("MS_", "GRAPH_OP", "ENABLE_"))))
    description.say(backend.device_target(), backend._portable)
    for line in _sources():
        description.say(line)
    return description.digest(), parameters


def _sources():
    """The files of every module that is loaded: those of this project by their text, others by size and time."""
    own = Path(__file__).resolve().parent
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
    for path in [*sorted(map(Path, files)), *sorted(own.rglob("*.cc"))]:
        try:
            if "site-packages" in path.parts:
                status = path.stat()
                yield f"{path} {status.st_size} {status.st_mtime_ns}"
            else:
                yield f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError:
            yield f"{path} is missing"


def _wanted() -> bool:
    return (
        os.environ.get("MINDCV_MODELS_GRAPH_CACHE") == "1" and not _used and backend.fuse_elementwise()
        and ms.get_context("mode") == ms.GRAPH_MODE and "MS_COMPILER_CACHE_ENABLE" not in os.environ
        and "MS_ROLE" not in os.environ and os.path.isfile(sys.argv[0])
    )  # fmt: skip


@contextlib.contextmanager
def _alone(lock: Path):
    """Whether this process is the only one within."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False


def compile_cached(cell: nn.Cell, *inputs) -> Optional[str]:
    """Compile ``cell`` for ``inputs`` with the help of earlier processes, where that is wanted and possible.

    Returns:
        ``"read"`` or ``"written"``; None where the cache takes no part, and the first call compiles as ever.
    """
    global _used
    if not _wanted():
        return None
    try:
        entry, parameters = _described(cell, inputs)
    except UndescribedError as missing:
        logger.debug("the graph is not cached: %s", missing)
        return None
    kernels = Path(os.environ["MS_COMPILER_CACHE_PATH"]).resolve()
    work, store = kernels / "rank_0" / "graph_cache", kernels / "graphs" / entry
    with _alone(kernels / "graphs" / "lock") as alone:
        if not alone:
            return None
        _used = True
        # A graph that is read takes its parameters from here, by name; a cell does not list those it only refers to.
        object.__setattr__(cell, "parameters_dict", lambda: parameters)
        ms.set_context(enable_compile_cache=True)
        try:
            return _read_or_write(cell, inputs, work, store)
        finally:
            ms.set_context(enable_compile_cache=False)
            object.__delattr__(cell, "parameters_dict")
            shutil.rmtree(work, ignore_errors=True)


def _read_or_write(cell, inputs, work, store):
    """Compile from the entry ``store``, which is made first where it is missing: either way the same graph runs."""
    shutil.rmtree(work, ignore_errors=True)
    outcome, number = "read", 0
    if not _is_whole(store):
        ms.set_context(precompile_only=True)
        try:
            cell.compile(*inputs)
        finally:
            ms.set_context(precompile_only=False)
        cell.compile_cache.clear()
        _keep(work, store)
        outcome, number = "written", 1  # MindSpore counts compilations
    shutil.copytree(store, work)
    if number:
        (work / "compile_cache_0.mindir").rename(work / f"compile_cache_{number}.mindir")
    cell.compile(*inputs)
    return outcome


def _keep(work, store):
    if list(work.glob("*.mindir")):
        (work / "digest").write_text(_digest_of(work), encoding="utf-8")
        shutil.rmtree(store, ignore_errors=True)
        os.replace(work, store)


def _is_whole(store) -> bool:
    try:
        return (store / "digest").read_text(encoding="utf-8") == _digest_of(store)
    except OSError:
        return False


def _digest_of(folder) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("compile_*")))).hexdigest()

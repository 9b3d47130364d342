"""A digest of everything that a cell's graph is made of.

The walk begins at the cell and follows every reference: attributes, constants, closures, classes and their methods, the
code of functions, and the global variables that this code names. Of installed packages it takes the name, and the size
and time of their files. What it does not know it refuses, since a graph of something else is worse than a slow start.
"""

import enum
import functools
import hashlib
import logging
import os
import re
import sys
import sysconfig
import time
import types
import typing
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import mindcv
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, context, nn, ops
from mindspore.common.dtype import Type
from mindspore.common.seed import _KERNEL_SEED

__all__ = ["UndescribedError", "check_sources", "described", "fingerprint"]

_PLAIN = {type(None), type(Ellipsis), bool, int, float, complex, str, bytes}
# What a cell keeps of its compilations, also as a part of another one, and of when it was made.
_BOOKKEEPING = {
    "_create_time", "_compile_cache", "_phase_cache", "_compile_phase", "arguments_key", "_id", "_phase", "_compiled",
    "_has_mutable_args_list", "sequence_modified", "_cell_init_args", "_init_flag", "_exist_objs",
    "_exist_names", "_is_check_and_refresh", "_scope",
}  # fmt: skip
_NOT_CALLED = {"__init__", "__new__"}  # of a cell, by a graph
_SETTINGS_OF_RUNS = {
    "precompile_only", "enable_compile_cache", "cur_step_num", "last_triggered_step", "need_ckpt",
    "save_checkpoint_steps",
}  # fmt: skip
_VARIABLES = ("MS_", "GRAPH_OP", "ENABLE_", "ASCEND_", "CUDA_", "DEVICE_ID", "RANK_")
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN = ("mindcv_models", "mindcv")  # also where they are installed

Parts = Iterator[Tuple[str, object]]


class UndescribedError(Exception):
    """Something that a graph may depend on cannot be described."""


def fingerprint(cell: nn.Cell, inputs) -> str:
    """A digest of the cell, of the inputs' shapes and types, and of the software and settings that compile them.

    Raises:
        UndescribedError: something is of an unknown kind, two parameters share a name, or a source file has changed
            since this process began.
    """
    return described(cell, inputs)[0]


def described(cell: nn.Cell, inputs) -> Tuple[str, Dict[str, Parameter]]:
    """The digest of :func:`fingerprint`, and by name every parameter that the graph may refer to."""
    if not all(type(each) is Tensor and not each.const_arg for each in inputs):
        raise UndescribedError("an input is not a tensor")
    walk = _Walk()
    walk.add("cell", cell)
    walk.add("inputs", str([(each.shape, each.dtype) for each in inputs]))
    walk.add("settings", str(list(_settings())))
    for line in _sources():
        walk.add("source", line)
    digest = walk.digest()
    parameters = cell.parameters_dict()
    for each in walk.parameters:
        if parameters.setdefault(each.name, each) is not each:
            raise UndescribedError(f"two parameters are called {each.name}")
    return digest, parameters


def _settings():
    yield ms.__version__, mindcv.__version__, np.__version__, sys.version, ms.get_seed(), _seeds_in_use()
    yield sorted((name, value) for name, value in os.environ.items() if name.startswith(_VARIABLES))
    yield ms.get_auto_parallel_context("parallel_mode")
    for name, key in context.ms_ctx_param.__members__.items():
        if name not in _SETTINGS_OF_RUNS:
            yield name, context._context().get_param(key)


def _seeds_in_use():
    """How often operators with random numbers have been made: the next one's seed."""
    return sorted(str((name, seed, now)) for (name, seed), now in _KERNEL_SEED.items() if now != seed)


def check_sources() -> None:
    """Raise UndescribedError if a source file has changed since this process began: what ran was the earlier text."""
    for _ in _sources():
        pass


def _sources():
    """Every file of MindSpore and MindCV by size and time, and those of this project and of the user by their text.

    Whether they are loaded makes no difference, except for the user's: a resumed run loads others than a new one.
    """
    began = _start_of_process() + 0.02  # told in hundredths of a second; no source is read sooner
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
    own = {path for path in loaded if not path.startswith(_INSTALLED)}
    own.update(str(path) for path in Path(__file__).parents[1].rglob("*.py"))
    installed = {str(path) for package in (ms, mindcv) for path in _files(Path(package.__file__).parent)}
    for path in sorted(own | installed):
        try:
            status = os.stat(path)
            if status.st_ctime > began:
                raise UndescribedError(f"{path} has changed since this process began")
            if path in own:
                yield f"{path} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
            else:
                yield f"{path} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            yield f"{path} is missing"


@functools.cache
def _files(folder):
    return [path for suffix in ("py", "so") for path in folder.rglob(f"*.{suffix}")]


@functools.cache
def _start_of_process() -> float:
    """When this process began, in seconds since 1970; as Linux tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError as error:
        raise UndescribedError("the system does not tell when this process began") from error
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


class _Walk:
    """Describes objects and all that they refer to, each once."""

    def __init__(self):
        self.hash = hashlib.sha256()
        self.objects: List[Tuple[object, str]] = []  # and where they were found
        self.numbers: Dict[int, int] = {}
        self.parameters: List[Parameter] = []

    def add(self, label, value, where=""):
        """One line of the description: plain values as they are, others by their number."""
        if type(value) not in _PLAIN:
            if id(value) not in self.numbers:
                self.numbers[id(value)] = len(self.objects)
                self.objects.append((value, f"{where}.{label}" if where else type(value).__qualname__))
            value = ("object", self.numbers[id(value)])
        self.hash.update(f"{label!r} {value!r}\n".encode("utf-8", "backslashreplace"))

    def digest(self) -> str:
        for value, where in self.objects:  # which grow meanwhile
            if isinstance(value, Parameter):
                self.parameters.append(value)
            kind = type(value)
            self.hash.update(f"{kind.__module__} {kind.__qualname__}\n".encode())
            try:
                for label, part in _parts(value):
                    self.add(str(label), part, where)
            except UndescribedError as error:
                raise UndescribedError(f"{where}: {error}") from None
        return self.hash.hexdigest()


@functools.singledispatch
def _parts(value) -> Parts:
    """What an object consists of, each part with a name."""
    kind = type(value)
    if kind.__module__ == "mindspore._c_expression.typing" or hasattr(kind, "__members__"):  # a type, or one of a few
        yield "type", str(value)
    elif hasattr(value, "__dict__") and (_is_own(kind) or kind.__module__.startswith("mindspore")):
        yield "class", kind
        yield from vars(value).items()
    else:
        raise UndescribedError(f"{kind.__module__}.{kind.__qualname__}")


@_parts.register
def _(value: Parameter):
    yield "parameter", str((value.name, value.shape, value.dtype, value.requires_grad))


@_parts.register
def _(value: Tensor):
    yield from _parts(value.asnumpy())
    yield "type", str(value.dtype)


@_parts.register(np.ndarray)
@_parts.register(np.generic)
def _(value):
    yield "array", str((value.shape, value.dtype.str, hashlib.sha256(np.ascontiguousarray(value)).hexdigest()))


@_parts.register(list)
@_parts.register(tuple)
def _(value):
    yield "length", len(value)
    for item in value:
        yield "item", item


@_parts.register
def _(value: dict):
    yield "length", len(value)
    for key, item in value.items():
        yield "key", key
        yield str(key), item


@_parts.register(set)
@_parts.register(frozenset)
def _(value):
    if not all(type(item) in _PLAIN for item in value):
        raise UndescribedError("a set")
    yield "items", str(sorted(map(repr, value)))


@_parts.register(re.Pattern)
def _(value):
    yield "pattern", str((value.pattern, value.flags))


@_parts.register(Type)
@_parts.register(np.dtype)
@_parts.register(Path)
@_parts.register(slice)
@_parts.register(range)
@_parts.register(enum.Enum)
@_parts.register(logging.Logger)
@_parts.register(types.GenericAlias)
@_parts.register(typing._GenericAlias)
@_parts.register(typing._SpecialForm)
@_parts.register(types.GetSetDescriptorType)
@_parts.register(types.MemberDescriptorType)
@_parts.register(types.WrapperDescriptorType)
@_parts.register(types.MethodDescriptorType)
def _(value):
    yield "text", repr(value)


@_parts.register(types.BuiltinFunctionType)
@_parts.register(types.ModuleType)
@_parts.register(np.ufunc)
def _(value):
    yield "name", f"{getattr(value, '__module__', '')} {value.__name__}"


@_parts.register
def _(value: functools.partial):
    yield "function", value.func
    yield "arguments", value.args
    yield "keywords", value.keywords


@_parts.register
def _(value: types.MethodType):
    yield "function", value.__func__
    yield "self", value.__self__


@_parts.register(classmethod)
@_parts.register(staticmethod)
def _(value):
    yield "function", value.__func__


@_parts.register
def _(value: property):
    yield "get", value.fget


@_parts.register(type(functools.cache(len)))
def _(value):
    yield "function", value.__wrapped__


@_parts.register
def _(value: ops.Primitive):
    yield "class", type(value)
    yield "name", value.name
    yield "attributes", value.attrs
    yield from vars(value).items()


@_parts.register
def _(value: nn.Cell):
    yield "class", type(value)
    yield "precision", str(value.get_mixed_precision_type())
    for name, item in vars(value).items():
        is_unused_hook = name.startswith("_lazy_") and not item  # None until somebody asked for it
        if name not in _BOOKKEEPING and not is_unused_hook:
            yield name, item


@_parts.register
def _(value: type):
    yield "name", f"{value.__module__}.{value.__qualname__}"
    for base in value.__bases__:
        yield "base", base
    own = _is_own(value)
    for name, item in vars(value).items():
        if name == "_abc_impl" or (name in _NOT_CALLED and issubclass(value, nn.Cell)):
            continue
        is_function = isinstance(item, types.FunctionType)
        if (own and (is_function or not name.startswith("__"))) or (is_function and _is_own(item)):
            yield name, item


@_parts.register
def _(value: types.FunctionType):
    yield "name", f"{value.__module__}.{value.__qualname__}"
    own = _is_own(value)
    if not own and getattr(sys.modules.get(value.__module__), value.__qualname__, None) is value:
        return
    yield "defaults", value.__defaults__
    yield "keywords", value.__kwdefaults__
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
        is_empty = cell == types.CellType()
        if own or name != "hash_obj":  # when MindSpore wrapped the function, in nanoseconds
            yield name, None if is_empty else cell.cell_contents
    if own:
        codes = list(_codes(value.__code__))
        yield from (("code", _text_of(code)) for code in codes)
        yield from _globals(value.__globals__, sorted({name for code in codes for name in code.co_names}))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of those that are defined within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _text_of(code):
    constants = [each for each in code.co_consts if not isinstance(each, types.CodeType)]
    constants = [sorted(map(repr, each)) if isinstance(each, frozenset) else repr(each) for each in constants]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return repr((code.co_code.hex(), constants, names, counts))


def _globals(variables, names):
    """The global variables that code names; of a module, those of its variables that the code names too."""
    for name, value in ((name, variables[name]) for name in names if name in variables):
        yield name, value
        if not isinstance(value, types.ModuleType):
            continue
        own = _is_own(value)
        for attribute, item in ((name, vars(value)[name]) for name in names if name in vars(value)):
            if own or type(item) in _PLAIN or isinstance(item, (type, types.FunctionType)):
                yield f"{name}.{attribute}", item


def _is_own(value) -> bool:
    """Whether a module, class or function is not of an installed package, but of this project or of its user."""
    if isinstance(value, types.FunctionType):
        return _is_own_module(value.__globals__.get("__name__"))  # decorators give it the name of another
    return _is_own_module(value.__name__ if isinstance(value, types.ModuleType) else value.__module__)


@functools.cache
def _is_own_module(name):
    top = (name or "").partition(".")[0]
    if top in _OWN:
        return not name.startswith(__package__)  # the cache itself is in no graph
    if top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not file.startswith(_INSTALLED)

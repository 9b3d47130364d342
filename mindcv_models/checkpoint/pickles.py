"""Pickles read as data: no function or class in them is imported or called.

A pickle is a program for a small stack machine. This machine handles only plain values: numbers, strings, tuples,
lists and dicts. The name of a Python function or class becomes a :class:`Global`, which only stores the name, and the
result of a call becomes an :class:`Inert` object, unless the caller provides a builder for that name.

Memory and time are bounded by the size of the pickle: lengths are checked against the data, steps are counted, and
dicts keep only keys whose hashes an attacker cannot choose.
"""

import io
import pickletools
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ..errors import InputError, shown

__all__ = ["Builders", "Global", "Inert", "read_pickle"]

# Far above any checkpoint: FasterViT-6's with its optimizer takes 150 thousand steps and 2 MB.
MAX_STEPS = 1_000_000
MAX_BYTES = 32 << 20


class Global(NamedTuple):
    """The name of a function or class in a pickle. It is never imported."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


class Inert(dict):
    """A placeholder for an object of an unknown class: all operations of the pickle on it are accepted and ignored.

    Items that are set on it remain readable, since dicts of unknown classes are still dicts.

    Attributes:
        origin: the class or function, a :class:`Global`, or what else it was, in words.
    """

    __slots__ = ("origin",)

    def __init__(self, origin):
        super().__init__()
        self.origin = origin if isinstance(origin, (str, Global)) else "object"

    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


Builders = Dict[Tuple[str, str], Callable[..., Any]]

_DICTS = {
    (module, name)
    for module, name in [
        ("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "dict"), ("__builtin__", "dict"),
    ]
}  # fmt: skip

# Modules whose functions no checkpoint calls. The calls would have no effect here, but such a file is an attack.
_ATTACKS = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "importlib", "ctypes", "pty", "code",
    "webbrowser", "pickle", "marshal", "multiprocessing", "threading", "signal",
}  # fmt: skip
_ATTACKS_OF_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint", "input"}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


def read_pickle(data: bytes, builders: Builders, persistent: Callable[[Any], Any]) -> Tuple[Any, int]:
    """Read the pickle at the beginning of ``data``.

    Args:
        builders: functions, by module and name, that replace the functions and classes of these names.
        persistent: returns the object of a persistent id.

    Returns:
        The value, and the length of the pickle in bytes.

    Raises:
        InputError: the pickle is damaged, too large or malicious.
    """
    stream = io.BytesIO(data[:MAX_BYTES])
    machine = _Machine(builders, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.stack.pop(), stream.tell()
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        problem = "too large" if len(data) > MAX_BYTES and stream.tell() >= MAX_BYTES else "damaged or truncated"
        raise InputError(f"its pickle is {problem}: download the file again") from error


class _Machine:
    def __init__(self, builders: Builders, persistent):
        self.builders, self.persistent = builders, persistent
        self.stack: List[Any] = []
        self.marks: List[int] = []
        self.memo: Dict[int, Any] = {}
        self.steps = 0

    def step(self, name, argument):
        self.spend(1)
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        else:
            getattr(self, f"do_{name.lower()}")(argument)

    def spend(self, count):
        self.steps += count
        if self.steps > MAX_STEPS:
            raise InputError(
                f"its pickle takes more than {MAX_STEPS:,} steps, more than any checkpoint: do not trust it"
            )

    def pop_mark(self) -> list:
        """The items above the last mark."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise IndexError("a mark above the stack")
        items = self.stack[start:]
        del self.stack[start:]
        self.spend(len(items))
        return items

    # Stack operations.

    def do_proto(self, argument):
        pass

    def do_frame(self, argument):
        pass

    def do_stop(self, argument):
        pass

    def do_mark(self, argument):
        self.marks.append(len(self.stack))

    def do_pop(self, argument):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def do_pop_mark(self, argument):
        self.pop_mark()

    def do_dup(self, argument):
        self.stack.append(self.stack[-1])

    def do_put(self, argument):
        if not 0 <= argument < 1 << 32:
            raise KeyError(argument)
        self.memo[argument] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, argument):
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, argument):
        self.stack.append(self.memo[argument])

    do_binget = do_long_binget = do_get

    # Containers.

    def do_empty_tuple(self, argument):
        self.stack.append(())

    def do_tuple(self, argument):
        self.stack.append(tuple(self.pop_mark()))

    def do_tuple1(self, argument):
        self.gather(1)

    def do_tuple2(self, argument):
        self.gather(2)

    def do_tuple3(self, argument):
        self.gather(3)

    def gather(self, count):
        if len(self.stack) < count:
            raise IndexError("too few items")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def do_empty_list(self, argument):
        self.stack.append([])

    def do_list(self, argument):
        self.stack.append(self.pop_mark())

    def do_append(self, argument):
        item = self.stack.pop()
        self.extend([item])

    def do_appends(self, argument):
        items = self.pop_mark()
        self.extend(items)

    def extend(self, items):
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise TypeError("no list to append to")

    def do_empty_dict(self, argument):
        self.stack.append({})

    def do_dict(self, argument):
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def do_setitem(self, argument):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def do_setitems(self, argument):
        items = self.pop_mark()
        self.set_items(items)

    def set_items(self, items):
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("no dict to set items of")
        for key, value in zip(items[::2], items[1::2]):
            target[_key(key)] = value

    def do_empty_set(self, argument):
        self.stack.append(Inert("set"))

    def do_additems(self, argument):
        items = self.pop_mark()
        self.extend(items)

    def do_frozenset(self, argument):
        self.pop_mark()
        self.stack.append(Inert("frozenset"))

    # Names and objects.

    def do_global(self, argument):
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def do_stack_global(self, argument):
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is not a string")
        self.stack.append(Global(module, name))

    def do_ext1(self, argument):
        self.stack.append(Inert("copyreg extension"))

    do_ext2 = do_ext4 = do_ext1

    def do_reduce(self, argument):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.make(function, arguments)

    do_newobj = do_reduce

    def do_newobj_ex(self, argument):
        self.stack.pop()
        self.do_reduce(argument)

    def do_inst(self, argument):
        arguments = tuple(self.pop_mark())
        self.do_global(argument)
        self.make(self.stack.pop(), arguments)

    def do_obj(self, argument):
        function, *arguments = self.pop_mark()
        self.make(function, tuple(arguments))

    def make(self, function, arguments):
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are not a tuple")
        known = function if isinstance(function, Global) else None
        if known and _is_attack(known):
            raise InputError(f"it calls {shown(str(known))}, which no checkpoint does: do not use this file")
        if known in self.builders:
            self.stack.append(self.builders[known](*arguments))
        elif known in _DICTS:
            self.stack.append({})
            self.fill(arguments)
        else:
            self.stack.append(Inert(known or "object"))

    def fill(self, arguments):
        """Set the items of a dict whose constructor got a list of pairs, as Python 2 pickled ordered dicts."""
        pairs = arguments[-1] if arguments and isinstance(arguments[-1], list) else []
        self.spend(len(pairs))
        self.set_items([item for key, value in pairs for item in (key, value)])

    def do_build(self, argument):
        self.stack.pop()  # attributes, which no value here has
        self.stack[-1]

    def do_binpersid(self, argument):
        self.stack.append(self.persistent(self.stack.pop()))


def _is_attack(function: Global) -> bool:
    builtin = function.module in ("builtins", "__builtin__")
    return function.module in _ATTACKS or (builtin and function.name in _ATTACKS_OF_BUILTINS)


def _key(key):
    """``key``, or a unique object in place of a key that could collide or take long to hash."""
    if isinstance(key, (str, bytes)) or key is None or (isinstance(key, int) and -1 < key < 1 << 31):
        return key
    return object()

"""Options of scripts: a dataclass of typed fields, filled from a command line and, where there is one, a YAML file.

An option's value comes from the command line, else from the YAML file, else from its default. Groups of options in a
YAML file are comments only; the keys are flat.
"""

import argparse
import re
import sys
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Type, TypeVar, get_args, get_origin, get_type_hints

import yaml

from ..errors import InputError, nearest

__all__ = ["option", "parse", "show"]

T = TypeVar("T")


def option(default, help, choices=None, group=None):
    """A field of an options class; ``group`` starts a new group in ``--help``."""
    return field(default=default, metadata={"help": help, "choices": choices, "group": group})


def parse(
    cls: Type[T],
    description: str,
    arguments: Optional[Sequence[str]] = None,
    read_file: Optional[Callable[[str], Dict[str, Any]]] = None,
) -> T:
    """The options that a command line gives, an instance of ``cls``, with the defaults behind it.

    Args:
        cls: a dataclass of :func:`option` fields, of type bool, int, float, str, Any, or a tuple or mapping of these;
            tuples of ``Path`` too; ``Optional`` where None means "not given".
        read_file: gives the values of the file that ``--config`` names; without it there is no ``--config``.

    Raises:
        InputError: an unknown option, or a value of the wrong type or not among the choices.
    """
    given = vars(_parser(cls, description, read_file is not None).parse_args(arguments))
    config = given.pop("config", "")
    values = read_file(config) if config else {}
    values.update((name, _Words(words)) for name, words in given.items())
    types = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    return cls(
        **{name: _convert(name, value, types[name], known[name].metadata["choices"]) for name, value in values.items()}
    )


class _Parser(argparse.ArgumentParser):
    names = ()

    def error(self, message):
        raise InputError(f"{message}. `{Path(sys.argv[0]).name} --help` lists the options.")

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise InputError(f"unknown option {unknown[0]}: {nearest(unknown[0], self.names, 'see --help')}")
        return known


def _parser(cls, description, takes_config):
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False,
    )  # fmt: skip
    parser.names = [f"--{f.name}" for f in fields(cls)]
    if takes_config:
        parser.add_argument("-c", "--config", default="", help="YAML file with options")
    group = parser
    for f in fields(cls):
        if f.metadata["group"]:
            group = parser.add_argument_group(f.metadata["group"])
        choices = f.metadata["choices"]
        help_text = f.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
        default = "" if f.default in (None, "", ()) else f" [{f.default}]"
        group.add_argument(
            f"--{f.name}", nargs="*", metavar="VALUE", type=str, help=(help_text + default).replace("%", "%%")
        )
    return parser


def _convert(name: str, value: Any, kind: Any, choices: Optional[Sequence]) -> Any:
    """``value``, from a file or as a list of command-line words, as the type ``kind`` of option ``name``."""
    optional = type(None) in get_args(kind)
    if optional:
        kind = get_args(kind)[0]
    words = value if isinstance(value, list) else [value]
    if optional and len(words) == 1 and str(words[0]).lower() in ("", "none"):
        return None
    if isinstance(value, _Words):
        value = value.parse(name, kind)
    try:
        value = _cast(value, kind)
    except (KeyError, TypeError, ValueError) as error:
        expected = f"one of {', '.join(map(str, choices))}" if choices else _describe(kind)
        raise InputError(f"{name} is {show(value)}, but must be {expected}.") from error
    if choices:
        by_lower = {str(choice).lower(): choice for choice in choices}
        if str(value).lower() not in by_lower:
            hint = nearest(str(value), map(str, choices), f"choose from {', '.join(map(str, choices))}.")
            raise InputError(f"{name} is {show(value)}, which is not known: {hint}")
        value = by_lower[str(value).lower()]
    return value


class _Words(list):
    """What the command line gave for one option."""

    def parse(self, name, kind):
        if get_origin(kind) is tuple and get_args(kind)[0] is Path:
            return list(self)
        if get_origin(kind) is tuple:
            return [word for word in re.split(r"[\s,\[\]()]+", " ".join(self)) if word]
        if get_origin(kind) is dict:
            pairs = [word.partition("=") for word in self]
            return {key: yaml.safe_load(value) for key, equals, value in pairs if equals}
        if kind is bool and not self:
            return True
        if len(self) != 1:
            raise InputError(f"--{name} takes one value, but got {len(self)}: {' '.join(self)!r}.")
        return self[0]


def _cast(value, kind):
    if get_origin(kind) is tuple:
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_cast(item, get_args(kind)[0]) for item in values if item != "")
    if get_origin(kind) is dict:
        if not isinstance(value, dict) or not value:
            raise TypeError(kind)
        return value
    if kind is Any:
        return yaml.safe_load(value) if isinstance(value, str) else value
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
    if isinstance(value, (bool, list, dict)) or value is None:
        raise TypeError(kind)
    if kind is int and float(value) != int(float(value)):
        raise ValueError(value)
    return kind(float(value)) if kind is int else kind(value)


def _describe(kind) -> str:
    if get_origin(kind) is tuple:
        return {int: "whole numbers, such as 30 60 90", float: "numbers, such as 0.08 1.0", str: "words",
                Path: "paths"}[get_args(kind)[0]]  # fmt: skip
    if get_origin(kind) is dict:
        return "pairs such as alpha=0.2"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[kind]


def show(value: Any) -> str:
    """A value in the words of an error message."""
    return " ".join(map(str, value)) if isinstance(value, list) else repr(value)

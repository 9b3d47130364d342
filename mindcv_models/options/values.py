"""From the words of a command line and the scalars of a YAML file to typed values, or one line on what is wrong."""

import math
import os
import re
import reprlib
from pathlib import Path
from typing import Any, Sequence, get_args, get_origin

import yaml

from ..errors import InputError, nearest
from .yaml_text import Plain, parse_text

__all__ = ["NOT_GIVEN", "Words", "convert", "show"]

NOT_GIVEN = object()
_NOTHING = ("none", "null", "~")
_WORDS = {"true": True, "yes": True, "1": True, "y": True, "t": True, "on": True,
          "false": False, "no": False, "0": False, "n": False, "f": False, "off": False}  # fmt: skip
_LARGEST = 2**31 - 1
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)  # $NAME or ${NAME}
_ITEMS = 1000  # of a mapping, those within it included


class Words(list):
    """What the command line gave for one option."""


def show(value: Any) -> str:
    """A value in the words of an error message, cut where it is long."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 120, 120
    if isinstance(value, list):
        text = " ".join(str(item) if isinstance(item, (int, float)) else _bare(item, short) for item in value[:8])
        return text + " ..." * (len(value) > 8)
    return short.repr(str(value) if isinstance(value, str) else value)


def _bare(item, short):
    text = short.repr(str(item) if isinstance(item, str) else item)
    return text[1:-1] if isinstance(item, str) else text


def convert(name: str, value: Any, kind: Any, metadata: dict) -> Any:
    """``value`` as the type ``kind`` of option ``name``; :data:`NOT_GIVEN` where it says that there is none.

    Args:
        value: :class:`Words`, or a value of a YAML file, whose unquoted text is :class:`Plain`.
        metadata: of :func:`mindcv_models.options.option`.

    Raises:
        InputError: the value is of another type, or not among the choices.
    """
    choices = metadata["choices"]
    optional = type(None) in get_args(kind)
    kind = get_args(kind)[0] if optional else kind
    if value is None or (isinstance(value, Plain) and value == ""):
        return NOT_GIVEN
    words = value if isinstance(value, list) else [value]
    if len(words) == 1 and isinstance(words[0], str) and _is_nothing(words[0], value, optional, choices):
        return None if optional else NOT_GIVEN
    if isinstance(value, Words):
        value = _joined(name, value, kind)
    try:
        value = _cast(value, kind)
    except (KeyError, TypeError, ValueError, OverflowError, yaml.YAMLError) as error:
        raise InputError(f"{name} is {show(value)}, but must be {_expected(value, kind, metadata)}.") from error
    if metadata["path"] or (get_origin(kind) is tuple and get_args(kind)[0] is Path):
        paths = value if isinstance(value, tuple) else (value,)
        paths = tuple(type(path)(_expanded(name, str(path))) if str(path) else path for path in paths)
        return paths if isinstance(value, tuple) else paths[0]
    return _choose(name, value, choices) if choices else value


def _is_nothing(word, value, optional, choices) -> bool:
    """Whether a word stands for no value; ``--data_dir=~`` is the home folder, and ``none`` may be a choice."""
    if word.lower() in map(str, choices or ()):
        return optional and word.lower() == "none"
    if word == "~":
        return isinstance(value, Plain)
    return word.lower() in _NOTHING or (optional and word == "")


def _joined(name, words, kind):
    """The words of a command line as one value of ``kind``, not yet of its type."""
    if get_origin(kind) is tuple:
        return list(words) if get_args(kind)[0] is Path else " ".join(words)
    if get_origin(kind) is dict:
        return _parse_pairs(words)
    if kind is bool and not words:
        return True
    if len(words) != 1:
        raise InputError(f"--{name} takes one value, but got {len(words)}: {show(' '.join(words))}.")
    return Plain(words[0]) if kind is Any else words[0]


def _parse_pairs(words: Sequence[str]) -> Any:
    """``key=value`` words, or a mapping as YAML writes it; the words as one text where they are neither."""
    text = " ".join(words)
    pairs = [word.partition("=") for word in words]
    try:
        if all(key.isidentifier() and equals for key, equals, _ in pairs):
            if len({key for key, _, _ in pairs}) < len(pairs):
                return text  # a key twice: YAML refuses that too
            return {key: parse_text(value) for key, _, value in pairs}
        return parse_text(text) if text.startswith("{") else text
    except yaml.YAMLError:
        return text


def _cast(value, kind):
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if isinstance(value, str):
            value = [value] if item is Path else [word for word in re.split(r"[\s,\[\]()]+", value) if word]
        return tuple(_cast(v, item) for v in (value if isinstance(value, (list, tuple)) else [value]) if v != "")
    if get_origin(kind) is dict:
        if not isinstance(value, dict) or not value:
            raise TypeError(kind)
        return _settle(value)
    if kind is Any:
        return _cast_any(value)
    if kind is bool:
        return _WORDS[str(value).lower()]
    if isinstance(value, (bool, list, tuple, dict)) or value is None:
        raise TypeError(kind)
    if kind in (int, float):
        return _number(value, kind)
    if "\0" in str(value):
        raise ValueError("a NUL character")
    return kind(value)


def _cast_any(value):
    return _settle(parse_text(value) if isinstance(value, Plain) else value)


def _number(value, kind):
    number = float(value)
    if not math.isfinite(number) or (kind is int and (number != int(number) or abs(number) > _LARGEST)):
        raise ValueError(value)
    return kind(number)


def _settle(value: Any) -> Any:
    """A value of a YAML file that no type is written down for: its unquoted numbers become numbers, at any depth.

    Raises:
        ValueError: it is nested too deep or has too many items, or a number in it is infinite or NaN.
    """
    return _settle_item(value, [_ITEMS], 0)


def _settle_item(value, left, depth):
    left[0] -= 1
    if left[0] < 0 or depth > 8:
        raise ValueError("too many items")
    if isinstance(value, dict):
        return {str(key): _settle_item(item, left, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_settle_item(item, left, depth + 1) for item in value]
    if not isinstance(value, Plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(value)
        return value
    if value == "" or value.lower() in _NOTHING:
        return None
    if value.lower() in _WORDS and len(value) > 1:
        return _WORDS[value.lower()]
    if re.fullmatch(r"[-+]?\d+", value):
        return int(value)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|nan)", value, re.IGNORECASE):
        return _number(value.lower().replace(".inf", "inf").replace(".nan", "nan"), float)
    return str(value)


def _expanded(name, path) -> str:
    """``path`` with the home folder for a ``~`` at its beginning, and the values of ``$NAME`` and ``${NAME}``.

    No shell sees the paths of a YAML file, nor those behind an equals sign.
    """
    if os.path.lexists(path):  # a name may have such characters
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise InputError(f"{name} is {show(path)}, but there is no such home folder: write the whole path.")
    expanded = _VARIABLE.sub(lambda found: os.environ.get(found[1] or found[2], found[0]), expanded)
    unset = re.search(r"^\$\w+|\$\{.*?\}", expanded, re.ASCII)
    if unset:
        raise InputError(f"{name} is {show(path)}, but {unset[0]} is not set: set it, or write the whole path.")
    return expanded


def _choose(name, value, choices):
    by_lower = {str(choice).lower(): choice for choice in choices}
    if str(value).lower() not in by_lower:
        hint = nearest(str(value)[:100], map(str, choices), f"choose from {', '.join(map(str, choices))}.")
        raise InputError(f"{name} is {show(value)}, which is not known: {hint}")
    return by_lower[str(value).lower()]


def _expected(value, kind, metadata) -> str:
    """What an option must be, with what was probably meant, or an example."""
    if metadata["choices"]:
        return f"one of {', '.join(map(str, metadata['choices']))}"
    meant = _meant(value, kind) if isinstance(value, str) else ""
    if meant:
        return f"{_describe(kind)}: write {meant}"
    return f"{_describe(kind)}, such as {metadata['example']}" if metadata["example"] else _describe(kind)


def _meant(value, kind) -> str:
    sides = re.fullmatch(r"(\d+)\s*[xX*]\s*(\d+)", value)
    if sides and get_origin(kind) is tuple:
        return f"{sides[1]} {sides[2]}"
    if kind is float and re.fullmatch(r"-?\d+,\d+", value):
        return value.replace(",", ".")
    percent = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)
    return f"{float(percent[1]) / 100:g}" if percent and kind is float else ""


def _describe(kind) -> str:
    if get_origin(kind) is tuple:
        return {int: "whole numbers", float: "numbers", str: "words", Path: "paths"}[get_args(kind)[0]]
    if get_origin(kind) is dict:
        return "pairs such as alpha=0.2"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text", Any: "a number or text"}[kind]

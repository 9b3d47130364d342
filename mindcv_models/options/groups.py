"""Options classes: dataclasses of typed fields, put together from groups that carry a title and a check."""

import re
from dataclasses import Field, field, fields
from typing import Any, Dict, List, Optional, Sequence, Type

from ..errors import InputError
from .values import show

__all__ = ["Group", "check_options", "check_pair", "groups_of", "option", "titled_fields"]


def option(
    default: Any, help: str, choices: Optional[Sequence] = None, *, at_least=None, at_most=None, above=None, below=None,
    path: bool = False, also: Sequence[str] = (), example: str = "",
) -> Any:  # fmt: skip
    """A field of an options class.

    Args:
        choices: the values that it may have; upper and lower case do not matter.
        at_least, at_most, above, below: limits of a number, or of each of several.
        path: text that is a path; ``~`` at its beginning is the home folder.
        also: names that other projects have for it; whoever types one is told this one.
        example: what to type, for the message on a value of the wrong type.
    """
    limits = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    limits = {word: limit for word, limit in limits.items() if limit is not None}
    metadata = {"help": help, "choices": choices, "limits": limits, "path": path, "also": also, "example": example}
    return field(default=default, metadata=metadata)


class Group:
    """Options that belong together: a dataclass of :func:`option` fields. A script's options inherit what it uses.

    Attributes:
        title: the heading of its fields in ``--help``; groups of one title are shown as one.
    """

    title = "Options"

    def check(self) -> None:
        """Refuse values of this group's own fields that could not work; :func:`check_options` calls each group's.

        Raises:
            InputError: naming the option.
        """

    def settle(self) -> None:
        """Work out values that follow from others; :func:`mindcv_models.options.parse` calls it before the checks.

        Raises:
            InputError: they do not go together.
        """

    @classmethod
    def scripts(cls) -> Dict[str, Type["Group"]]:
        """The options of the scripts that read the same YAML files, by the scripts' names; none: they read no file."""
        return {}


def groups_of(cls: type) -> List[type]:
    """The classes that fields of ``cls`` come from, in the order in which ``cls`` lists its bases, itself last."""
    found = [group for base in cls.__bases__ if base is not object for group in groups_of(base)]
    return list(dict.fromkeys([*found, cls]))


def titled_fields(cls: type) -> Dict[str, List[Field]]:
    """The fields of an options class by the title of the group that has them first."""
    known = {f.name: f for f in fields(cls)}
    titled = {}
    for group in groups_of(cls):
        for name in vars(group).get("__annotations__", {}):
            if name in known:
                titled.setdefault(getattr(group, "title", Group.title), []).append(known.pop(name))
    return titled


def check_options(options: Any) -> None:
    """Refuse values that are out of range or could not work together, before anything is built.

    Raises:
        InputError: naming the option.
    """
    for f in fields(options):
        value = getattr(options, f.name)
        for item in value if isinstance(value, tuple) else () if value is None else (value,):
            _check_limits(f, value, item)
    for group in groups_of(type(options)):
        if "check" in vars(group):
            group.check(options)


def check_pair(options: Any, name: str, rising: bool = False) -> None:
    """Refuse an option of several numbers that is given, but not two of them.

    Args:
        rising: refuse them too if the first is the larger one.

    Raises:
        InputError: naming the option, with its example.
    """
    values = getattr(options, name)
    if values is None or (len(values) == 2 and not (rising and values[0] > values[1])):
        return
    example = next(f.metadata["example"] for f in fields(options) if f.name == name)
    words = ", the smaller one first" if rising else f", such as {example}"
    raise InputError(f"{name} is {show(list(values))}, but must be two numbers{words}.")


def _check_limits(f, value, item) -> None:
    inside = {
        "at least": lambda limit: item >= limit,
        "at most": lambda limit: item <= limit,
        "above": lambda limit: item > limit,
        "below": lambda limit: item < limit,
    }
    limits = f.metadata["limits"]
    if all(inside[word](limit) for word, limit in limits.items()):
        return
    shown = show(list(value)) if isinstance(value, tuple) else value
    raise InputError(f"{f.name} is {shown}, but must be {_in_words(limits)}{_share(limits, item)}.")


def _in_words(limits: Dict[str, float]) -> str:
    words = " and ".join(f"{word} {limit}" for word, limit in limits.items())
    words = re.sub(r"at least (\S+) and at most", r"from \1 to", words)
    return re.sub(r"above (\S+) and below", r"between \1 and", words)


def _share(limits, item) -> str:
    top = limits.get("at most", limits.get("below"))
    return f"; for {item:g} % write {item / 100:g}" if top == 1 and 5 <= item <= 100 else ""

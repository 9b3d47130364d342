"""Errors that end a script with a one-line message and an exit status."""

import difflib
import reprlib
import signal
from typing import Any, Iterable

LONGEST_LINE = 600  # characters of an error message


class InputError(ValueError):
    """Invalid input: one line with what was given, what was expected and how to fix it. Scripts exit with status 2.

    Attributes:
        of_one_rank: the error occurred on this rank only, so this rank has to report it.
    """

    of_one_rank = False


class RunError(RuntimeError):
    """A run that cannot continue: one line with the event and its cause. Scripts exit with status 1.

    Attributes:
        of_one_rank: the error occurred on this rank only, so this rank has to report it.
    """

    of_one_rank = False


class NotFiniteError(RunError):
    """A loss or weight became infinite or NaN."""


class Stopped(Exception):  # noqa: N818, not an error
    """A run that was stopped by SIGTERM, Ctrl-C or SIGHUP after saving its state. Scripts exit with 128 + the signal.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.signal = number


def one_line(message: Any) -> str:
    """A message as a script prints it: one line without control characters, cut in the middle where it is endless."""
    text = str(message)
    text = " ".join((text if len(text) < 1 << 16 else text[: 1 << 15] + text[-1 << 15 :]).split())
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE * 2 // 3]} ... {text[-LONGEST_LINE // 3 :]}"


class _Short(reprlib.Repr):
    """Representations whose cost is bounded, however large or nested a value is."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 4

    def repr_str(self, text, level):
        return super().repr_str(text[:1000], level)

    def repr_int(self, number, level):
        return super().repr_int(number, level) if abs(number) < 1 << 256 else "a huge number"

    def repr_instance(self, value, level):
        is_plain = value is None or type(value) in (bool, float, complex)
        return repr(value) if is_plain else f"<{type(value).__name__[:80]}>"


def shown(value: Any) -> str:
    """A foreign value in an error message: its representation, cut where it is long or deeply nested."""
    return _Short().repr(value)


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint for a misspelt ``name``: the nearest known one, or ``otherwise``."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def refuse_pretrained(name: str, pretrained: bool) -> None:
    """Raise InputError for ``pretrained=True`` of MindCV's own ``create_model``, which knows no weights of ``name``."""
    if pretrained:
        raise InputError(
            f"pretrained=True: MindCV has no weights of {name}. Use mindcv_models.create_model({name!r}, "
            "pretrained=True), which loads the official ones."
        )

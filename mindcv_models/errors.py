"""How a script ends other than well: wrong input, a run that cannot go on, a request to stop."""

import difflib
import signal
from typing import Iterable


class InputError(ValueError):
    """Wrong input: one line with what was given, what was expected and what to do. Scripts exit with status 2 on it.

    Attributes:
        of_one_rank: only this rank met it, so only this rank can say it.
    """

    of_one_rank = False


class RunError(RuntimeError):
    """A run that cannot go on: one line with what happened, and to what. Scripts exit with status 1 on it.

    Attributes:
        of_one_rank: only this rank met it, so only this rank can say it.
    """

    of_one_rank = False


class NotFiniteError(RunError):
    """A loss or a weight is infinite or not a number."""


class Stopped(Exception):  # noqa: N818, it is no error
    """A run that was asked to stop, by SIGTERM or Ctrl-C, and saved its state. Scripts exit with 128 + the signal.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.signal = number


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint for a mistyped ``name``: the nearest known one, or ``otherwise``."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def refuse_pretrained(name: str, pretrained: bool) -> None:
    """MindCV's ``pretrained`` downloads weights, and none of ``name`` are published for MindSpore."""
    if pretrained:
        raise InputError(
            f"pretrained=True: no MindSpore weights of {name} are published. Give an official PyTorch checkpoint as "
            "pretrained_torch=PATH."
        )

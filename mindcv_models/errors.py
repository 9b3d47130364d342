"""The one kind of error that is the user's to mend."""

import difflib
from typing import Iterable


class InputError(ValueError):
    """Wrong input: one line with what was given, what was expected and what to do. Scripts exit with status 2 on it."""


class RunError(RuntimeError):
    """A run that cannot go on: one line with what happened, and to what. Scripts exit with status 1 on it."""


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

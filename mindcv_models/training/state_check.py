"""What a saved state may hold: it may come from anywhere, and is checked whole before anything of it is used."""

import re
from dataclasses import asdict
from typing import Any, Callable, Dict, Sequence

import numpy as np
from mindspore import Parameter

from ..errors import InputError, shown
from .progress import RunPosition
from .state_files import SavedState

__all__ = ["check_metadata", "check_values"]

_LARGEST = 2**53  # of whole numbers: epochs, steps and images


def check_metadata(state: SavedState, model: str) -> None:
    """Refuse metadata of another shape than a run's: options, place, best result, schedule, checkpoints, results.

    Args:
        model: the run's model; the names of its numbered checkpoints begin with it, and files of no other name may be
            listed, since those that are no longer kept are deleted.

    Raises:
        InputError: naming the file and the entry.
    """
    _Metadata(state, model).check()


def check_values(state: SavedState, parameters: Sequence[Parameter]) -> None:
    """Refuse arrays that are not a value, of its shape and type, for each parameter.

    Raises:
        InputError: naming the array; a missing one, or one too many, may come from other options.
    """
    wanted = {p.name: p for p in parameters}
    advice = "resume with the options of the run that saved it"
    for name in sorted(wanted.keys() ^ state.arrays.keys()):
        owner = "the saved state" if name in wanted else "this run"
        raise InputError(f"{owner} has no {shown(name)}: {advice}.")
    for name, parameter in wanted.items():
        value, own = state.arrays[name], parameter.asnumpy()
        if value.shape != own.shape:
            raise InputError(f"{name} is {shown(value.shape)} in the saved state, but {own.shape} here: {advice}.")
        if value.dtype != own.dtype:
            raise InputError(f"{state.path}: {name} is {str(value.dtype)[:40]}, but must be {own.dtype}: {_DAMAGED}.")
        if not np.isfinite(value).all():
            raise InputError(f"{state.path}: {name} has a number that is not finite: {_DAMAGED}.")


_DAMAGED = "the state was changed after it was saved, or is of another version; give --resume another one"


class _Metadata:
    """The checks of one state's metadata, each entry named by its path in them, such as ``place.epoch``."""

    def __init__(self, state: SavedState, model: str):
        self.path, self.metadata, self.model = state.path, state.metadata, model
        self.checkpoint = re.compile(rf"{re.escape(model)}-\d+_\d+\.ckpt")

    def refuse(self, entry: str, value: Any, expected: str):
        raise InputError(f"{self.path}: {entry} is {shown(value)}, but must be {expected}: {_DAMAGED}.")

    def require(self, entry: str, value: Any, expected: str, is_right: Callable[[Any], bool]) -> None:
        if not is_right(value):
            self.refuse(entry, value, expected)

    def mapping(self, entry: str, value: Any, required: Sequence[str], known: Sequence[str] = ()) -> Dict[str, Any]:
        """``value``, a mapping with all of the keys ``required``, and no other than these and ``known``, if given."""
        self.require(entry, value, "a mapping", lambda v: isinstance(v, dict))
        for key in required:
            self.require(entry, value, f"a mapping with {key}", lambda v: key in v)  # noqa: B023
        for key in value if known else ():
            self.require(entry, key, f"among {', '.join(known)}", lambda v: v in known)
        return value

    def check(self) -> None:
        parts = ("options", "place", "best", "schedule", "keeper", "results")
        metadata = self.mapping("its content", self.metadata, parts)
        options = self.mapping("options", metadata["options"], ())
        if options.get("model", self.model) != self.model:
            raise InputError(
                f"{self.path} is a state of a run of {shown(options['model'])}, not of {self.model}: resume with its "
                "model, or give --resume another state."
            )
        self.place(metadata["place"])
        self.best(metadata["best"])
        schedule = self.mapping("schedule", metadata["schedule"], ("factor", "best", "waited"))
        self.require("schedule.factor", schedule["factor"], "above 0", lambda v: _is_finite(v) and v > 0)
        self.require("schedule.best", schedule["best"], "a number", _is_number)
        self.require("schedule.waited", schedule["waited"], "a count", _is_count)
        self.keeper(self.mapping("keeper", metadata["keeper"], ("best", "numbered")))
        self.results(metadata["results"])

    def place(self, place) -> None:
        known = asdict(RunPosition())
        self.mapping("place", place, ("epoch", "step"), tuple(known))
        for name, value in place.items():
            entry = f"place.{name}"
            if name == "part_sums":
                self.require(entry, value, "numbers", lambda v: isinstance(v, list) and all(map(_is_finite, v)))
            elif isinstance(known[name], float):
                self.require(entry, value, "a number", _is_finite)
            else:
                self.require(entry, value, "a count", _is_count)
        self.require("place.epoch", place["epoch"], "1 or more", lambda v: v > 0)

    def best(self, best) -> None:
        if best is None or (isinstance(best, dict) and "values" not in best):  # earlier versions had metrics here
            return
        self.mapping("best", best, ("values", "score", "images"), ("values", "score", "images", "at_chance", "text"))
        for name, value in self.mapping("best.values", best["values"], ()).items():
            self.require(f"best.values of {shown(name)}", value, "a number", _is_float)
        self.require("best.score", best["score"], "a number", _is_float)
        self.require("best.images", best["images"], "a count", _is_count)
        self.require("best.text", best.get("text", ""), "text", lambda v: isinstance(v, str))

    def keeper(self, keeper) -> None:
        for name in ("best", "tie"):
            self.require(f"keeper.{name}", keeper.get(name, 0.0), "a number", _is_number)
        self.require("keeper.numbered", keeper["numbered"], "a list", lambda v: isinstance(v, list))
        for item in keeper["numbered"]:
            pair = isinstance(item, list) and len(item) == 2 and _is_number(item[0]) and isinstance(item[1], str)
            if not (pair and self.checkpoint.fullmatch(item[1])):
                self.refuse("keeper.numbered", item, "a score and the name of a numbered checkpoint of this run")

    def results(self, rows) -> None:
        self.require("results", rows, "a list", lambda v: isinstance(v, list))
        for row in rows:
            for name, text in self.mapping("results", row, ()).items():
                self.require(f"results of {shown(name)}", text, "the text of a number", _is_cell)


def _is_float(value) -> bool:
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    )


def _is_number(value) -> bool:
    """A number, which may be infinite, as the best score before the first validation is."""
    return _is_float(value) and value == value


def _is_finite(value) -> bool:
    return _is_number(value) and abs(value) < 1e300


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_cell(text) -> bool:
    if not isinstance(text, str) or len(text) > 40:
        return False
    try:
        float(text or 0)
    except ValueError:
        return False
    return True

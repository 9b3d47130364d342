"""The state from which a run goes on exactly where it was."""

import json
import logging
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import numpy as np

from ..cells import is_running_statistic, set_value
from ..distributed import World, on_every_rank, sum_over_ranks
from ..errors import InputError, NotFiniteError, RunError, one_line
from ..evaluation import Result
from ..options import RunOptions
from .progress import RunPosition
from .state_check import check_metadata, check_values
from .state_files import SavedState, StateFiles

__all__ = ["RunState", "find_differences"]

logger = logging.getLogger(__name__)

# Options without which the saved numbers do not fit, or mean something else.
_FIXED = (
    "model",
    "model_kwargs",
    "num_classes",
    "in_channels",
    "batch_size",
    "gradient_accumulation_steps",
    "opt",
    "ema",
)
# Options that say nothing about the training.
_SILENT = ("resume", "ckpt_save_dir", "pretrained_cache", "pretrained_mirror", "graph_cache")
# Parameters that come from elsewhere, or are filled anew in each step.
_NOT_SAVED = ("learning_rate", "teacher.", "kept.")


class RunState:
    """Everything that a run goes on from, between the objects that hold it and files.

    That is each parameter of the compiled step (weights, the optimizer's moments and counter, moving averages, loss
    scale, sums of accumulated gradients), the place in the data, the schedule's memory, the rows of ``results.csv``,
    and which checkpoints are kept. Random numbers of the data and of stochastic depth are functions of the seed and
    the place. Learning rates come from the options, and a teacher from its own file.
    """

    def __init__(self, options: RunOptions, step, schedule, checkpoints, results, steps: int, world: World):
        self.parameters = [p for p in step.get_parameters() if not p.name.startswith(_NOT_SAVED)]
        self.parts = {"schedule": schedule, "keeper": checkpoints, "results": results}
        self.options = json.loads(json.dumps({**asdict(options), "ranks": world.size, "steps": steps}))
        self.world = world
        self.files = StateFiles(checkpoints.folder / "state", world)

    def save(self, position: RunPosition, best: Optional[Result]) -> None:
        """Write the state, unless it is broken.

        Raises:
            NotFiniteError: a number in it is infinite or none.
            RunError: it cannot be written.
        """
        self.require_finite()
        arrays = {p.name: p.asnumpy() for p in self.parameters if self.world.is_main or _differs(p.name)}
        metadata = {"options": self.options, "place": asdict(position), "best": best and asdict(best)}
        metadata.update((name, part.state_dict()) for name, part in self.parts.items())
        on_every_rank(lambda: self.files.save(position.epoch, position.step, metadata, arrays), self.world)

    def require_finite(self) -> None:
        """Raise NotFiniteError, on every rank, if a parameter has a number that is not finite on one of them."""
        broken = [p.name for p in self.parameters if not np.isfinite(p.asnumpy()).all()]
        if sum_over_ranks([len(broken)], self.world)[0]:
            where = broken[0] if broken else "another process"
            raise NotFiniteError(f"a number in {where} is no longer finite: lower lr, or set clip_grad True.")

    def resume(self, where: str) -> Optional[Tuple[RunPosition, Optional[Result]]]:
        """Take over a saved state, and say so; None if ``where`` is ``"auto"`` and there is none.

        Args:
            where: ``"auto"`` for the newest whole one of this run's folder, or a path: of another run's folder, or of
                one file in its ``state``.

        Raises:
            InputError: ``where`` has no whole state, or one that does not fit these options.
        """
        if where == "auto":
            found = self.files.newest()
            if found is None:
                if self.files.exist():
                    raise InputError(
                        f"no state in {self.files.folder} is whole on all {self.world.size} processes: resume with as "
                        "many as saved it, give --resume a state, or start anew in another ckpt_save_dir."
                    )
                logger.info("no state to resume from in %s: starting anew", self.files.folder)
                return None
        else:
            found = self._found_at(Path(where))
        self._agree(lambda: check_metadata(found, self.parts["keeper"].model))
        changed = find_differences(found.metadata["options"], self.options)
        if changed:
            logger.warning("resuming with other options: %s", ", ".join(changed))
        position, best = self._take(found)
        done = f"{position.epoch - 1} epochs" + (f" and {position.step} steps" if position.step else "")
        began = datetime.fromtimestamp(self.files.run).strftime("%Y-%m-%d %H:%M:%S")
        logger.info("resuming the run of %s after %s", began, done)
        if self.options["drop_rate"]:
            logger.warning("dropout draws its random numbers anew: the run goes on, but not bit for bit")
        return position, best

    def restore_newest(self) -> Tuple[RunPosition, Optional[Result]]:
        """Take over the newest state of this run, which began with saving one.

        Raises:
            RunError: no whole one is left.
        """
        found = self.files.newest()
        if found is None:
            raise RunError(f"nothing to roll back to: {self.files.folder} has no whole state.")
        self._agree(lambda: check_metadata(found, self.parts["keeper"].model))
        return self._take(found)

    def _found_at(self, path):
        if path.is_dir():
            folder = path / "state" if (path / "state").is_dir() else path
            found = self.files.newest(folder)
            if found is None:
                raise InputError(f"no whole state of a run in {folder}: give a ckpt_save_dir, or leave resume out.")
            return found
        if not path.is_file():
            raise InputError(
                f"no state of a run at {path}: give a ckpt_save_dir or a file of its state folder, or auto."
            )
        return self.files.read(path)

    def _agree(self, check: Callable[[], None]) -> None:
        """Call ``check`` and wait for the other ranks' calls: a state that one of them refuses is none."""
        refusal = None
        try:
            check()
        except InputError as error:
            refusal = error
        refusals = sum_over_ranks([refusal is not None], self.world)[0]
        if refusal is not None:
            refusal.of_one_rank = refusals < self.world.size
            raise refusal
        if refusals:
            raise InputError("another process cannot use its part of the saved state.")

    def _take(self, state: SavedState):
        metadata = state.metadata
        self._agree(lambda: check_values(state, self.parameters))
        for parameter in self.parameters:
            set_value(parameter, state.arrays[parameter.name])
        for name, part in self.parts.items():
            part.load_state_dict(metadata[name])
        best = metadata["best"]
        # States of earlier versions have metrics of classification here; the score is the checkpoint manager's too.
        return RunPosition(**metadata["place"]), Result(**best) if best and "values" in best else None


def _differs(name):
    """Statistics of batch normalisation and sums of gradients: each rank has its own until they are reduced."""
    return is_running_statistic(name) or name.startswith("accumulated.")


def find_differences(saved: dict, now: dict) -> List[str]:
    """Options that the saved run had otherwise, as ``"lr 0.1 (was 0.01)"``.

    Raises:
        InputError: one of them is such that the state does not fit.
    """
    changed = [n for n in now if n not in _SILENT and saved.get(n, now[n]) != now[n]]
    for name in changed:
        if name in (*_FIXED, "ranks", "steps"):
            what = {"steps": "batches an epoch", "ranks": "processes"}.get(name, name)
            raise InputError(
                f"cannot resume: {what} was {_short(saved[name])} in the run that saved the state, and is {now[name]} "
                "here; use the same, or start anew in another ckpt_save_dir."
            )
    return [f"{name} {now[name]} (was {_short(saved[name])})" for name in changed]


def _short(value) -> str:
    return one_line(value)[:100]

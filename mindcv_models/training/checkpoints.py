"""Which checkpoints of a run are on disk."""

import math
import os
import shutil
from pathlib import Path
from typing import List, Optional, Tuple

from mindspore import Parameter

from ..checkpoint import save_checkpoint
from ..files import atomic_write, remove_partials

__all__ = ["CheckpointManager"]

_LOWEST = (-math.inf, -math.inf)


class CheckpointManager:
    """Numbered checkpoints by policy, and always ``<model>_last.ckpt`` and ``<model>_best.ckpt``.

    Args:
        policy: ``"latest_k"`` keeps the newest numbered ones, ``"top_k"`` the best, ``"none"`` none.
        keep_max: how many numbered ones are kept.
    """

    def __init__(self, folder: Path, model: str, policy: Optional[str], keep_max: int):
        self.folder = folder
        self.model = model
        self.policy = policy
        self.keep_max = keep_max
        self.numbered: List[Tuple[float, Path]] = []
        self.best_key = _LOWEST
        remove_partials(folder)  # by a run that was killed

    @property
    def best(self) -> Path:
        return self.folder / f"{self.model}_best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / f"{self.model}_last.ckpt"

    def state_dict(self) -> dict:
        """What a resumed run has to know: plain numbers and names."""
        numbered = [[place, path.name] for place, path in self.numbered]
        score, tie = self.best_key
        return {"best": score, "tie": tie, "numbered": numbered}

    def load_state_dict(self, state: dict) -> None:
        """Take over checkpoints of the run so far, as far as they are in the folder."""
        self.best_key = (state["best"], state.get("tie", -math.inf)) if self.best.exists() else _LOWEST
        listed = [(place, self.folder / name) for place, name in state["numbered"]]
        self.numbered = [(place, path) for place, path in listed if path.exists()]

    def save(self, parameters: List[Parameter], epoch: int, step: int, key: Optional[Tuple[float, float]]) -> None:
        """Save after an epoch.

        Args:
            key: of the validation, see :attr:`mindcv_models.evaluation.Result.sort_key`; None where there was none.
        """
        save_checkpoint(parameters, self.last)
        if key is not None and key > self.best_key:
            self.best_key = key
            _same_file(self.last, self.best)
        if self.policy not in (None, "none"):
            path = self.folder / f"{self.model}-{epoch}_{step}.ckpt"
            _same_file(self.last, path)
            score = -math.inf if key is None else key[0]
            self.numbered.append((epoch if self.policy == "latest_k" else score, path))
            self._prune()

    def _prune(self):
        self.numbered.sort(key=lambda item: item[0])
        while len(self.numbered) > self.keep_max:
            self.numbered.pop(0)[1].unlink(missing_ok=True)


def _same_file(source: Path, target: Path):
    """Give ``source`` a second name, without a moment in which ``target`` is missing or half there."""
    with atomic_write(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, partial)

"""Which checkpoints of a run are on disk."""

import os
import shutil
from pathlib import Path
from typing import List, Optional, Tuple

from mindspore import Parameter

from ..checkpoint import save_checkpoint
from ..files import atomic_write, remove_partials

__all__ = ["CheckpointManager"]


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
        self.best_score = self.best_tie = float("-inf")
        remove_partials(folder)  # by a run that was killed

    @property
    def best(self) -> Path:
        return self.folder / f"{self.model}_best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / f"{self.model}_last.ckpt"

    def state_dict(self) -> dict:
        """What a resumed run has to know: plain numbers and names."""
        numbered = [[rank, path.name] for rank, path in self.numbered]
        return {"best": self.best_score, "tie": self.best_tie, "numbered": numbered}

    def load_state_dict(self, state: dict) -> None:
        """Take over checkpoints of the run so far, as far as they are in the folder."""
        is_there = self.best.exists()
        self.best_score = state["best"] if is_there else float("-inf")
        self.best_tie = state.get("tie", float("-inf")) if is_there else float("-inf")
        listed = [(rank, self.folder / name) for rank, name in state["numbered"]]
        self.numbered = [(rank, path) for rank, path in listed if path.exists()]

    def save(
        self, parameters: List[Parameter], epoch: int, step: int, score: Optional[float], tie: float = 0.0
    ) -> None:
        """Save after an epoch; ``score`` (larger is better) is None where there was no validation.

        Args:
            tie: decides between equal scores, larger being better.
        """
        save_checkpoint(parameters, self.last)
        if score is not None and (score, tie) > (self.best_score, self.best_tie):
            self.best_score, self.best_tie = score, tie
            _same_file(self.last, self.best)
        if self.policy not in (None, "none"):
            path = self.folder / f"{self.model}-{epoch}_{step}.ckpt"
            _same_file(self.last, path)
            rank = epoch if self.policy == "latest_k" else (float("-inf") if score is None else score)
            self.numbered.append((rank, path))
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

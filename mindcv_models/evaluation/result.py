"""What a validation finds, and what the training loop asks of it: the seam between the loop and the tasks."""

import math
from dataclasses import dataclass
from typing import Dict, Protocol, Tuple

__all__ = ["Result", "Validator"]


@dataclass(frozen=True)
class Result:
    """The figures of one validation.

    Attributes:
        values: a figure for each of the validator's columns, such as ``val_loss``, ``top1`` and ``top5``.
        score: what the best checkpoint, ``top_k``, plateau and early stopping go by; larger is better.
        images: number of images that were validated, on all ranks together.
        at_chance: whether guessing would have done as well; ``stop_if_stuck`` counts these.
        text: the figures in one line, for the log.
    """

    values: Dict[str, float]
    score: float
    images: int
    at_chance: bool = False
    text: str = ""

    def __post_init__(self):
        # Part of the saved state, so plain numbers: NumPy's are no JSON.
        plain = {name: float(value) for name, value in self.values.items()}
        for name, value in (("values", plain), ("score", float(self.score)), ("at_chance", bool(self.at_chance))):
            object.__setattr__(self, name, value)

    @property
    def sort_key(self) -> Tuple[float, float]:
        """What results are compared by, larger being better: the score, then the loss (negated), where there is one."""
        loss = self.values.get("val_loss", 0.0)
        return self.score, -loss if loss == loss else -math.inf

    def __str__(self):
        return self.text or ", ".join(f"{name} {value:.4f}" for name, value in self.values.items())


class Validator(Protocol):
    """Validates a network with its current weights, on all ranks together.

    Attributes:
        columns: names of the figures, in the order of their columns in ``results.csv``.
    """

    columns: Tuple[str, ...]

    def __call__(self) -> Result: ...

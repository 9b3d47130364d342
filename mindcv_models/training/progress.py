"""Where a run stands, and its progress as the user sees it."""

import logging
import math
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import List, Tuple

import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from ..errors import NotFiniteError

__all__ = ["EpochProgress", "RunPosition"]

logger = logging.getLogger(__name__)


@dataclass
class RunPosition:
    """Where a run stands; part of its saved state.

    Attributes:
        epoch: the epoch under way, counted from 1.
        step: its batches that are done.
        losses, loss_sum: of this epoch's steps, those whose loss is counted in its mean, and their sum.
        part_sums: the same for each part of the objective.
        seconds: what this epoch took so far.
        skipped: batches of the run whose updates were undone and not repeated.
        rollbacks: how often that happened.
        stuck: validations in a row at chance level.
        without_gain: validations in a row that were not the best so far.
    """

    epoch: int = 1
    step: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    part_sums: List[float] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0
    rollbacks: int = 0
    stuck: int = 0
    without_gain: int = 0

    @property
    def mean_loss(self) -> float:
        """The mean over the epoch's steps, not the last one's; not a number if there were none."""
        return self.loss_sum / self.losses if self.losses else math.nan

    @property
    def mean_parts(self) -> List[float]:
        """The means of the objective's parts over the epoch's steps; empty if there were none."""
        return [total / self.losses for total in self.part_sums]

    def count(self, losses: np.ndarray) -> None:
        """Count the loss of a step, or a vector of the loss and its parts."""
        loss, *parts = np.atleast_1d(losses).tolist()
        self.losses += 1
        self.loss_sum += loss
        self.part_sums = [total + part for total, part in zip(self.part_sums or [0.0] * len(parts), parts)]

    def next_epoch(self) -> "RunPosition":
        """The start of the next epoch, with what is counted over the run."""
        return RunPosition(
            self.epoch + 1, skipped=self.skipped, rollbacks=self.rollbacks, stuck=self.stuck,
            without_gain=self.without_gain,
        )  # fmt: skip


class EpochProgress:
    """Losses and speed of one epoch, as a bar on a terminal and as a steady line elsewhere.

    Losses stay on the device until a line is due, so that watching does not slow the steps down. A first step that
    compiles the graph is reported by itself and left out of the speed.

    Args:
        first: whether this epoch's first step compiles.
        parts: names of the objective's parts.
    """

    def __init__(self, position: RunPosition, epochs: int, steps: int, images_per_step: int, log_interval: int,
                 show: bool, first: bool, parts: Tuple[str, ...] = ()):  # fmt: skip
        self.position = position
        self.parts = parts
        self.epochs, self.steps = epochs, steps
        self.images_per_step = images_per_step
        self.log_interval = log_interval
        self.first = first
        self.losses = []
        self.timed_steps = 0
        self.begin = time.time()
        on_terminal = show and sys.stderr.isatty()
        title = f"epoch {position.epoch}/{epochs}"
        self.bar = tqdm(
            total=steps, initial=position.step, desc=title, unit="step", leave=False, disable=not on_terminal
        )  # fmt: skip

    @property
    def images_per_second(self) -> float:
        """Of the steps after the one that compiled; NaN where there are none."""
        if not self.timed_steps:
            return math.nan
        return self.timed_steps * self.images_per_step / max(time.time() - self.begin, 1e-9)

    def step(self, loss: Tensor, rate: float) -> None:
        """Count one step that gave ``loss``, a scalar or a vector with the parts, at learning rate ``rate``.

        Raises:
            NotFiniteError: see :meth:`settle`; at every ``log_interval``.
        """
        self.losses.append(loss)
        self.position.step += 1
        if self.first:
            self.first = False
            loss.asnumpy()
            logger.info("first step, compilation included: %.1f s", time.time() - self.begin)
            self.begin = time.time()
        else:
            self.timed_steps += 1
        self.bar.update()
        if self.position.step % self.log_interval == 0 or self.position.step == self.steps:
            latest = np.atleast_1d(loss.asnumpy())
            self.settle()
            self._report(latest, rate)

    def settle(self) -> None:
        """Fetch the losses of the steps so far and count them.

        Raises:
            NotFiniteError: one of them is not a finite number.
        """
        for loss in self.losses:
            values = np.atleast_1d(loss.asnumpy())
            if not np.isfinite(values).all():
                self.bar.close()
                where = f"epoch {self.position.epoch}, by step {self.position.step} of {self.steps}"
                where = f"epoch {self.position.epoch}, by step {self.position.step} of {self.steps}"
                raise NotFiniteError(
                    f"the training loss is {float(values[0])} in {where}: lower lr, set clip_grad True, or try "
                    "nan_policy rollback."
                )
            self.position.count(values)
        self.losses.clear()
        if self.position.step == self.steps:
            self.bar.close()

    def _report(self, loss, rate):
        position = self.position
        parts = {name: f"{value:.4f}" for name, value in zip(self.parts, loss[1:])}
        if not self.bar.disable:
            speed = {"img_s": f"{self.images_per_second:.0f}"} if self.timed_steps else {}
            self.bar.set_postfix(loss=f"{loss[0]:.4f}", **parts, lr=f"{rate:.2e}", **speed)
            return
        logger.info(
            "epoch %d/%d step %d/%d  loss %.4f%s  lr %.2e%s",
            position.epoch, self.epochs, position.step, self.steps, loss[0],
            "".join(f"  {name} {value}" for name, value in parts.items()), rate, self._speed(),
        )  # fmt: skip

    def _speed(self):
        """The speed and the time that is left, in words; nothing while only the step that compiled is done."""
        if not self.timed_steps:
            return ""
        steps_left = (self.epochs - self.position.epoch + 1) * self.steps - self.position.step
        left = timedelta(seconds=round(steps_left * self.images_per_step / self.images_per_second))
        return f"  {self.images_per_second:.0f} images/s  {left} left"

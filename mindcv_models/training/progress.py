"""Where a run stands, and what a user watches of it."""

import logging
import math
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

from mindspore import Tensor
from tqdm import tqdm

from ..errors import NotFiniteError

__all__ = ["EpochProgress", "Place"]

logger = logging.getLogger(__name__)


@dataclass
class Place:
    """Where a run stands; part of its saved state.

    Attributes:
        epoch: the epoch under way, counted from 1.
        step: its batches that are done.
        losses, loss_sum: of this epoch's steps, those whose loss is counted in its mean, and their sum.
        seconds: what this epoch took so far.
        skipped: batches of the run whose updates were undone and not repeated.
        rollbacks: how often that happened.
        stuck: epochs in a row at chance level.
    """

    epoch: int = 1
    step: int = 0
    losses: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    skipped: int = 0
    rollbacks: int = 0
    stuck: int = 0

    @property
    def mean_loss(self) -> float:
        """The mean over the epoch's steps, not the last one's; not a number if there were none."""
        return self.loss_sum / self.losses if self.losses else math.nan


class EpochProgress:
    """Losses and speed of one epoch, as a bar on a terminal and as a steady line elsewhere.

    Losses stay on the device until a line is due, so that watching does not slow the steps down. A first step that
    compiles the graph is reported by itself and left out of the speed.

    Args:
        first: whether this epoch's first step compiles.
    """

    def __init__(self, place: Place, epochs: int, steps: int, images_per_step: int, log_interval: int, show: bool,
                 first: bool):  # fmt: skip
        self.place = place
        self.epochs, self.steps = epochs, steps
        self.images_per_step = images_per_step
        self.log_interval = log_interval
        self.first = first
        self.losses = []
        self.timed_steps = 0
        self.begin = time.time()
        on_terminal = show and sys.stderr.isatty()
        title = f"epoch {place.epoch}/{epochs}"
        self.bar = tqdm(
            total=steps, initial=place.step, desc=title, unit="step", leave=False, disable=not on_terminal
        )  # fmt: skip

    @property
    def images_per_second(self) -> float:
        return self.timed_steps * self.images_per_step / max(time.time() - self.begin, 1e-9)

    def step(self, loss: Tensor, rate: float) -> None:
        """Count one step that gave ``loss`` at learning rate ``rate``.

        Raises:
            NotFiniteError: see :meth:`settle`; at every ``log_interval``.
        """
        self.losses.append(loss)
        self.place.step += 1
        if self.first:
            self.first = False
            loss.asnumpy()
            logger.info("first step, compilation included: %.1f s", time.time() - self.begin)
            self.begin = time.time()
        else:
            self.timed_steps += 1
        self.bar.update()
        if self.place.step % self.log_interval == 0 or self.place.step == self.steps:
            latest = float(loss.asnumpy())
            self.settle()
            self._report(latest, rate)

    def settle(self) -> None:
        """Fetch the losses of the steps so far and count them.

        Raises:
            NotFiniteError: one of them is not a finite number.
        """
        for loss in self.losses:
            value = float(loss.asnumpy())
            if not math.isfinite(value):
                self.bar.close()
                raise NotFiniteError(
                    f"the training loss is {value} in epoch {self.place.epoch}, by step {self.place.step} of "
                    f"{self.steps}: lower lr, set clip_grad True, or try nan_policy rollback."
                )
            self.place.loss_sum += value
            self.place.losses += 1
        self.losses.clear()
        if self.place.step == self.steps:
            self.bar.close()

    def _report(self, loss, rate):
        place = self.place
        if not self.bar.disable:
            self.bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.2e}", img_s=f"{self.images_per_second:.0f}")
            return
        steps_left = (self.epochs - place.epoch + 1) * self.steps - place.step
        seconds_left = steps_left * self.images_per_step / self.images_per_second if self.timed_steps else 0
        logger.info(
            "epoch %d/%d step %d/%d  loss %.4f  lr %.2e  %.0f images/s  %s left",
            place.epoch, self.epochs, place.step, self.steps, loss, rate,
            self.images_per_second, timedelta(seconds=round(seconds_left)),
        )  # fmt: skip

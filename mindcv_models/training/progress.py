"""What a user watches while a run goes on."""

import logging
import sys
import time
from datetime import timedelta

from mindspore import Tensor
from tqdm import tqdm

__all__ = ["EpochProgress"]

logger = logging.getLogger(__name__)


class EpochProgress:
    """Losses and speed of one epoch, as a bar on a terminal and as a steady line elsewhere.

    Losses stay on the device until a line is due, so that watching does not slow the steps down. The run's first step
    compiles the graph; it is reported by itself and left out of the speed.
    """

    def __init__(self, epoch: int, epochs: int, steps: int, images_per_step: int, log_interval: int, show: bool):
        self.epoch, self.epochs, self.steps = epoch, epochs, steps
        self.images_per_step = images_per_step
        self.log_interval = log_interval
        self.losses = []
        self.timed_steps = 0
        self.begin = time.time()
        on_terminal = show and sys.stderr.isatty()
        self.bar = tqdm(total=steps, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False, disable=not on_terminal)

    @property
    def images_per_second(self) -> float:
        return self.timed_steps * self.images_per_step / max(time.time() - self.begin, 1e-9)

    def step(self, loss: Tensor, rate: float) -> None:
        """Count one step that gave ``loss`` at learning rate ``rate``."""
        self.losses.append(loss)
        if self.epoch == 1 and len(self.losses) == 1:
            loss.asnumpy()
            logger.info("first step, compilation included: %.1f s", time.time() - self.begin)
            self.begin = time.time()
        else:
            self.timed_steps += 1
        self.bar.update()
        if len(self.losses) % self.log_interval == 0 or len(self.losses) == self.steps:
            self._report(float(loss.asnumpy()), rate)

    def mean_loss(self) -> float:
        """The mean over the epoch's steps, not the last one's."""
        self.bar.close()
        return sum(float(loss.asnumpy()) for loss in self.losses) / len(self.losses)

    def _report(self, loss, rate):
        if not self.bar.disable:
            self.bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.2e}", img_s=f"{self.images_per_second:.0f}")
            return
        steps_left = (self.epochs - self.epoch + 1) * self.steps - len(self.losses)
        seconds_left = steps_left * self.images_per_step / self.images_per_second if self.timed_steps else 0
        logger.info(
            "epoch %d/%d step %d/%d  loss %.4f  lr %.2e  %.0f images/s  %s left",
            self.epoch, self.epochs, len(self.losses), self.steps, loss, rate,
            self.images_per_second, timedelta(seconds=round(seconds_left)),
        )  # fmt: skip

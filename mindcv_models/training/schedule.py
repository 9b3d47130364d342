"""Learning rates: a table made before the run, and a factor that validation may lower during it."""

import math
from typing import List

import mindspore as ms
import numpy as np
from mindcv.scheduler import create_scheduler
from mindspore import Parameter, Tensor, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ..cells import set_value
from ..options import RunOptions

__all__ = ["Rate", "Schedule", "learning_rates"]

_BETTER = 1e-4  # the relative gain that plateau counts as one, as in PyTorch


def learning_rates(options: RunOptions, updates_per_epoch: int, peak: float = 1.0) -> List[float]:
    """The learning rate of every update of the run.

    MindCV's tables, with additions of this project: after the warm-up no rate is below ``min_lr``, whatever the
    schedule; ``warmup_prefix`` False lets the decay start with the run, the warm-up replacing its beginning, as timm
    does; ``plateau`` is constant here, since validation lowers it; ``poly`` and ``warmup_steps`` are the schedule and
    the warm-up by updates of mmsegmentation and mmdetection.

    Args:
        peak: factor on ``lr`` alone: the warm-up still starts at ``lr * warmup_factor``, and the decay ends at
            ``min_lr``.
    """
    warmup = options.warmup_epochs * updates_per_epoch
    if options.warmup_prefix or not warmup:
        rates = _table(options, updates_per_epoch, peak, options.warmup_epochs, options.scheduler)
    else:
        rates = _table(options, updates_per_epoch, peak, options.warmup_epochs, "constant")[:warmup]
        rates += _table(options, updates_per_epoch, peak, 0, options.scheduler)[warmup:]
    rates = rates[:warmup] + [max(rate, options.min_lr) for rate in rates[warmup:]]
    steps, start = options.warmup_steps, options.warmup_factor
    return [rate * (1 - (1 - t / steps) * (1 - start)) if t < steps else rate for t, rate in enumerate(rates)]


def _table(options, updates_per_epoch, peak, warmup_epochs, scheduler):
    rates = create_scheduler(
        updates_per_epoch,
        scheduler="constant" if scheduler in ("plateau", "poly") else scheduler,
        lr=options.lr * peak,
        min_lr=options.min_lr,
        warmup_epochs=warmup_epochs,
        warmup_factor=options.warmup_factor / peak,
        decay_epochs=options.decay_epochs,
        decay_rate=options.decay_rate,
        milestones=list(options.multi_step_decay_milestones),
        num_epochs=options.epoch_size,
        num_cycles=options.num_cycles,
        cycle_decay=options.cycle_decay,
        lr_epoch_stair=options.lr_epoch_stair,
    )
    if scheduler != "poly":
        return rates
    warmup = warmup_epochs * updates_per_epoch
    return rates[:warmup] + _poly(options, updates_per_epoch, peak, len(rates) - warmup)


def _poly(options, updates_per_epoch, peak, updates):
    """``(lr - min_lr) * (1 - t / updates)^decay_rate + min_lr`` at update t."""
    stair = updates_per_epoch if options.lr_epoch_stair else 1
    shares = [1 - t // stair * stair / updates for t in range(updates)]
    return [(options.lr * peak - options.min_lr) * share**options.decay_rate + options.min_lr for share in shares]


class Schedule:
    """The learning rates of a run.

    ``plateau`` multiplies them by ``decay_rate``, down to ``min_lr``, when ``patience_epochs`` validations in a row,
    and one more, did not raise top-1. The factor is a parameter of the compiled step, which stays as it is.
    """

    def __init__(self, options: RunOptions, updates_per_epoch: int):
        self.options = options
        self.updates_per_epoch = updates_per_epoch
        self.rates = learning_rates(options, updates_per_epoch)
        self.adapts = options.scheduler == "plateau"
        self.factor = 1.0
        self.parameter = Parameter(Tensor(1.0, ms.float32), name="lr_factor", requires_grad=False)
        self.best = -math.inf
        self.waited = 0

    def at(self, update: int) -> float:
        """The learning rate of update ``update``, counted from 0, as things stand now."""
        return self.rates[min(update, len(self.rates) - 1)] * self.factor

    def rate(self, peak: float = 1.0, scale: float = 1.0) -> "Rate":
        """What an optimizer takes as the learning rate of a group.

        Args:
            peak: factor on the peak alone, see :func:`learning_rates`.
            scale: factor on every rate.
        """
        rates = self.rates if peak == 1 else learning_rates(self.options, self.updates_per_epoch, peak)
        return Rate(np.asarray(rates) * scale, self.parameter if self.adapts else None)

    def after_validation(self, score: float) -> None:
        """Lower the rates if ``score``, larger being better, has not risen for too long; nothing but for plateau."""
        if not self.adapts:
            return
        if score > self.best * (1 + math.copysign(_BETTER, self.best)):
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.options.patience_epochs:
            lowest = self.options.min_lr / self.options.lr
            self._set_factor(max(self.factor * self.options.decay_rate, min(1.0, lowest)))
            self.waited = 0

    def state_dict(self) -> dict:
        """What a resumed run needs beside the number of updates done: plain numbers."""
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        self._set_factor(state["factor"])
        self.best, self.waited = state["best"], state["waited"]

    def _set_factor(self, factor):
        self.factor = factor
        set_value(self.parameter, np.float32(factor))


class Rate(LearningRateSchedule):
    """The number of updates done to the learning rate of the next: a table, times a factor if there is one."""

    def __init__(self, rates, factor=None):
        super().__init__()
        self.rates = Tensor(np.asarray(rates, np.float32))
        self.last = len(rates) - 1
        self.factor = factor

    def construct(self, step):
        rate = ops.gather(self.rates, ops.minimum(step, self.last), 0)
        return rate if self.factor is None else rate * self.factor

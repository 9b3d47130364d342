"""The loop around the compiled step."""

import logging
import time
from dataclasses import replace
from typing import Callable, Dict, Optional

import numpy as np
from mindspore import Tensor

from ..cells import is_running_statistic
from ..data.order import DROP_PATH, generator
from ..distributed import ONE_DEVICE, World, average_parameters, on_every_rank
from ..errors import InputError, NotFiniteError, RunError, Stopped
from ..evaluation import Result, Validator
from ..options import RunOptions
from .checkpoints import CheckpointManager
from .drop_path import DropPathDraws
from .progress import EpochProgress, RunPosition
from .results import Results
from .schedule import Schedule
from .state import RunState
from .step import TrainStep
from .stop import StopRequest

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

ROLLBACKS = 3  # a run's tries under nan_policy rollback


class Trainer:
    """Runs epochs, validates, keeps checkpoints, writes ``results.csv``, and saves its state to go on from.

    Args:
        loader: this rank's training batches: ``len()`` is the number of steps per epoch, and ``epoch(number, step)``
            iterates over an epoch's batches, tuples of arrays with images first, from ``step`` on.
        schedule: the learning rate of every update; it is told every validation's score.
        validator: validates the network with its current weights, or None to train without validation.
        checkpoints: only rank 0 writes.
        on_epoch_end: is called with each epoch's row; on rank 0.

    Attributes:
        best: the best validation; of the moving average, where there is one.
    """

    def __init__(self, options: RunOptions, step: TrainStep, loader, schedule: Schedule,
                 validator: Optional[Validator], checkpoints: CheckpointManager, world: World = ONE_DEVICE,
                 on_epoch_end: Optional[Callable[[Dict[str, float]], None]] = None):  # fmt: skip
        self.options = options
        self.step = step
        self.network = step.objective.network
        self.parts = step.objective.parts
        self.loader = loader
        self.schedule = schedule
        self.validator = validator
        self.checkpoints = checkpoints
        self.world = world
        self.steps = len(loader)
        self.draws = DropPathDraws.of(self.network)
        self.results = Results(checkpoints.folder / "results.csv", self._columns(), on_epoch_end)
        self.state = RunState(options, step, schedule, checkpoints, self.results, self.steps, world)
        self.position = RunPosition()
        self.best: Optional[Result] = None
        self.first = True
        self.began = time.time()

    def run(self) -> Optional[Result]:
        """Train up to ``epoch_size`` epochs, and return the best validation.

        Raises:
            InputError: an image cannot be decoded, or there is nothing that fits to resume from.
            NotFiniteError: the loss or a weight is no finite number; what is on disk is from before that.
            RunError: a file cannot be written, or the run is stuck.
            Stopped: the run was asked to stop; its state is saved.
        """
        resumed = self.state.resume(self.options.resume) if self.options.resume else None
        if resumed:
            self.position, self.best = resumed
        elif self.options.nan_policy == "rollback":
            self._save_state()
        with StopRequest(self.world) as self.stop:
            while self.position.epoch <= self.options.epoch_size and not self._stops_early():
                try:
                    self._epoch()
                except NotFiniteError as error:
                    self._roll_back(error)
        return self.best

    def _epoch(self):
        position = self.position
        self.began = time.time() - position.seconds
        self.first |= self.step.start_epoch((position.epoch - 1) / self.options.epoch_size)
        speed = self._train()
        average_parameters(self._statistics(), self.world)
        self.state.require_finite()
        row = {
            "epoch": position.epoch,
            "lr": self._rate(self._done() - 1),
            "train_loss": position.mean_loss,
            **{f"train_{name}": mean for name, mean in zip(self.parts, position.mean_parts)},
            "images_per_second": speed,
        }
        results = self._validate()
        for prefix, result in results.items():
            row.update({prefix + name: value for name, value in result.values.items()})
        selected = list(results.values())[-1] if results else None
        if selected is not None:
            self._count(selected)
        row["seconds"] = time.time() - self.began
        on_every_rank(lambda: self._write(row, selected), self.world)
        self.position = position.next_epoch()
        self.began = time.time()
        self._save_state()
        self._stop_if_stuck()

    def _count(self, result):
        """What a validation means for the rest of the run."""
        self.schedule.after_validation(result.score)
        before = self.best
        if before is None or result.sort_key > before.sort_key:
            self.best = result
        gained = before is None or result.score > before.score
        self.position.without_gain = 0 if gained else self.position.without_gain + 1
        self.position.stuck = self.position.stuck + 1 if result.at_chance else 0

    def _train(self):
        position, options = self.position, self.options
        progress = EpochProgress(
            position, options.epoch_size, self.steps, options.batch_size * self.world.size, options.log_interval,
            show=self.world.is_main, first=self.first, parts=self.parts,
        )  # fmt: skip
        for batch in self._batches():
            if self.draws:
                self.draws.fill(generator(options.seed, DROP_PATH, position.epoch, position.step, self.world.rank))
            progress.step(self.step(*batch), self._rate(self._done()))
            self.first = False
            stopped = self.stop.check()
            if stopped or (options.save_every and self._done() % options.save_every == 0):
                progress.settle()
                self._save_state()
            if stopped:
                where = f"after step {position.step} of {self.steps} of epoch {position.epoch}"
                raise Stopped(stopped, f"{where}: the same command with --resume auto goes on from there")
        return progress.images_per_second

    def _batches(self):
        try:
            for batch in self.loader.epoch(self.position.epoch, self.position.step):
                yield tuple(Tensor.from_numpy(each) if isinstance(each, np.ndarray) else each for each in batch)
        except (InputError, RunError) as error:
            error.of_one_rank = True
            raise

    def _done(self):
        return (self.position.epoch - 1) * self.steps + self.position.step

    def _rate(self, batch):
        """The learning rate of the update that the run's batch ``batch``, counted from 0, goes into."""
        update = max(batch - self.position.skipped, 0) // self.options.gradient_accumulation_steps
        return self.schedule.at(update)

    def _statistics(self):
        """What each rank gathers alone: the statistics of batch normalisation, and their moving averages."""
        averages = self.step.ema.averages if self.step.ema else ()
        return [p for p in (*self.network.get_parameters(), *averages) if is_running_statistic(p.name)]

    def _validate(self) -> Dict[str, Result]:
        """Results of the network, and of its moving averages, by the prefix of their columns; the last ones count."""
        epoch = self.position.epoch
        due = epoch % self.options.val_interval == 0 or epoch == self.options.epoch_size
        if self.validator is None or not due:
            return {}
        results = {"": self.validator()}
        if self.step.ema:
            with self.step.ema.applied():
                results["ema_"] = self.validator()
        return results

    def _write(self, row, selected):
        """Checkpoints, then the epoch's row; rank 0 only."""
        if not self.world.is_main:
            return
        due = row["epoch"] % self.options.ckpt_save_interval == 0 or row["epoch"] == self.options.epoch_size
        if due or selected is not None:
            averages = self.step.ema.averages if self.step.ema else ()
            parameters = [*self.network.get_parameters(), *averages]
            self.checkpoints.save(parameters, row["epoch"], self.steps, selected and selected.sort_key)
        self.results.add(row)

    def _save_state(self):
        self.position.seconds = time.time() - self.began
        self.state.save(self.position, self.best)

    def _roll_back(self, error):
        """Undo what was learned since the last state, and go on with the batches after those that led here."""
        reached = self.position
        if self.options.nan_policy == "stop" or reached.rollbacks == ROLLBACKS:
            raise error
        saved, self.best = self.state.restore_newest()
        undone = (reached.epoch - saved.epoch) * self.steps + reached.step - saved.step
        self.position = replace(
            saved, epoch=reached.epoch, step=reached.step, skipped=saved.skipped + undone,
            rollbacks=reached.rollbacks + 1,
        )  # fmt: skip
        logger.warning(
            "%s Rollback %d of %d: back to the weights of %d batches ago, and on with the next batch.",
            error, self.position.rollbacks, ROLLBACKS, undone,
        )  # fmt: skip

    def _stop_if_stuck(self):
        if self.options.stop_if_stuck and self.position.stuck >= self.options.stop_if_stuck:
            raise RunError(
                f"validation was at chance level {self.position.stuck} times in a row (stop_if_stuck): "
                "lower lr, lengthen warmup_epochs, and check that the labels belong to the images."
            )

    def _stops_early(self):
        """Whether ``early_stopping`` ends the run here, as on every rank, which all have the same results."""
        if not 0 < self.options.early_stopping <= self.position.without_gain:
            return False
        logger.info("early stopping: no better validation in the last %d", self.position.without_gain)
        return True

    def _columns(self):
        """Validation columns are there from the first epoch, even where validation comes later."""
        measured = []
        if self.validator is not None:
            prefixes = ("", "ema_") if self.step.ema else ("",)
            measured = [prefix + name for prefix in prefixes for name in self.validator.columns]
        losses = ["train_loss", *(f"train_{name}" for name in self.parts)]
        return ["epoch", "lr", *losses, "images_per_second", *measured, "seconds"]

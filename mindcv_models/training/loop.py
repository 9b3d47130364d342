"""The loop around the compiled step."""

import logging
import math
import time
from dataclasses import replace
from typing import Callable, Dict, Optional

from mindspore import nn

from ..classification.validator import Metrics
from ..data.order import DROP_PATH, generator
from ..distributed import ONE_DEVICE, World, average_parameters, on_every_rank
from ..errors import InputError, NotFiniteError, RunError, Stopped
from ..layers import DropPathDraws
from ..options import Options
from .keeper import CheckpointKeeper
from .progress import EpochProgress, Place
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
        loader: this rank's training batches, a function of the epoch and the step.
        schedule: the learning rate of every update; it hears of every validation.
        validate: gives the metrics of the network as it stands, or None to train without validation.
        keeper: the checkpoints; only rank 0 writes.
        watch: is told each epoch's row; on rank 0.

    Attributes:
        best: the best validation metrics; of the moving average, where there is one.
    """

    def __init__(self, options: Options, network: nn.Cell, step: TrainStep, loader, schedule: Schedule,
                 validate: Optional[Callable[[], Metrics]], keeper: CheckpointKeeper,
                 world: World = ONE_DEVICE, watch: Optional[Callable[[Dict[str, float]], None]] = None):  # fmt: skip
        self.options = options
        self.network = network
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.validate = validate
        self.keeper = keeper
        self.world = world
        self.steps = len(loader)
        self.draws = DropPathDraws(network)
        self.results = Results(keeper.folder / "results.csv", self._columns(), watch)
        self.state = RunState(options, step, schedule, keeper, self.results, self.steps, world)
        self.place = Place()
        self.best: Optional[Metrics] = None
        self.first = True
        self.began = time.time()

    def run(self) -> Optional[Metrics]:
        """Train up to ``epoch_size`` epochs, and return the best validation metrics.

        Raises:
            InputError: an image cannot be decoded, or there is nothing that fits to resume from.
            NotFiniteError: the loss or a weight is no finite number; what is on disk is from before that.
            RunError: a file cannot be written, or the run is stuck.
            Stopped: the run was asked to stop; its state is saved.
        """
        resumed = self.state.resume(self.options.resume) if self.options.resume else None
        if resumed:
            self.place, self.best = resumed
        elif self.options.nan_policy == "rollback":
            self._save_state()
        with StopRequest(self.world) as self.stop:
            while self.place.epoch <= self.options.epoch_size:
                try:
                    self._epoch()
                except NotFiniteError as error:
                    self._roll_back(error)
        return self.best

    def _epoch(self):
        place = self.place
        self.began = time.time() - place.seconds
        self.first |= self.step.start_epoch((place.epoch - 1) / self.options.epoch_size)
        speed = self._train()
        average_parameters(self._statistics(), self.world)
        self.state.require_finite()
        row = {
            "epoch": place.epoch,
            "lr": self._rate(self._done() - 1),
            "train_loss": place.mean_loss,
            "images_per_second": speed,
        }
        found = self._metrics()
        for prefix, metrics in found.items():
            row.update({f"{prefix}val_loss": metrics.loss, f"{prefix}top1": metrics.top1})
            row[f"{prefix}top{metrics.k}"] = metrics.topk
        judged = list(found.values())[-1] if found else None
        if judged is not None:
            self.schedule.after_validation(judged.top1)
            self.best = judged if self.best is None or judged.top1 > self.best.top1 else self.best
        row["seconds"] = time.time() - self.began
        on_every_rank(lambda: self._write(row, judged), self.world)
        if judged is not None:
            place.stuck = place.stuck + 1 if _at_chance(judged, self.options.num_classes) else 0
        self.place = Place(place.epoch + 1, skipped=place.skipped, rollbacks=place.rollbacks, stuck=place.stuck)
        self.began = time.time()
        self._save_state()
        self._stop_if_stuck()

    def _train(self):
        place, options = self.place, self.options
        progress = EpochProgress(
            place, options.epoch_size, self.steps, options.batch_size * self.world.size, options.log_interval,
            show=self.world.is_main, first=self.first,
        )  # fmt: skip
        for images, labels in self._batches():
            self.draws.fill(generator(options.seed, DROP_PATH, place.epoch, place.step, self.world.rank))
            progress.step(self.step(images, labels), self._rate(self._done()))
            self.first = False
            stopped = self.stop.check()
            if stopped or (options.save_every and self._done() % options.save_every == 0):
                progress.settle()
                self._save_state()
            if stopped:
                where = f"after step {place.step} of {self.steps} of epoch {place.epoch}"
                raise Stopped(stopped, f"{where}: the same command with --resume auto goes on from there")
        return progress.images_per_second

    def _batches(self):
        try:
            yield from self.loader.epoch(self.place.epoch, self.place.step)
        except (InputError, RunError) as error:
            error.of_one_rank = True
            raise

    def _done(self):
        return (self.place.epoch - 1) * self.steps + self.place.step

    def _rate(self, batch):
        """The learning rate of the update that the run's batch ``batch``, counted from 0, goes into."""
        update = max(batch - self.place.skipped, 0) // self.options.gradient_accumulation_steps
        return self.schedule.at(update)

    def _statistics(self):
        """What each rank gathers alone: the statistics of batch normalisation, and their moving averages."""
        averages = self.step.ema.averages if self.step.ema else ()
        return [p for p in (*self.network.get_parameters(), *averages) if "moving_" in p.name]

    def _metrics(self) -> Dict[str, Metrics]:
        """Metrics of the network, and of its moving averages, by the prefix of their columns; the last ones count."""
        epoch = self.place.epoch
        due = epoch % self.options.val_interval == 0 or epoch == self.options.epoch_size
        if self.validate is None or not due:
            return {}
        found = {"": self.validate()}
        if self.step.ema:
            with self.step.ema.applied():
                found["ema_"] = self.validate()
        return found

    def _write(self, row, judged):
        """Checkpoints, then the epoch's row; rank 0 only."""
        if not self.world.is_main:
            return
        due = row["epoch"] % self.options.ckpt_save_interval == 0 or row["epoch"] == self.options.epoch_size
        if due or judged is not None:
            averages = self.step.ema.averages if self.step.ema else ()
            parameters = [*self.network.get_parameters(), *averages]
            self.keeper.save(parameters, row["epoch"], self.steps, None if judged is None else judged.top1)
        self.results.add(row)

    def _save_state(self):
        self.place.seconds = time.time() - self.began
        self.state.save(self.place, self.best)

    def _roll_back(self, error):
        """Undo what was learned since the last state, and go on with the batches after those that led here."""
        reached = self.place
        if self.options.nan_policy == "stop" or reached.rollbacks == ROLLBACKS:
            raise error
        saved, self.best = self.state.restore_newest()
        undone = (reached.epoch - saved.epoch) * self.steps + reached.step - saved.step
        self.place = replace(
            saved, epoch=reached.epoch, step=reached.step, skipped=saved.skipped + undone,
            rollbacks=reached.rollbacks + 1,
        )  # fmt: skip
        logger.warning(
            "%s Rollback %d of %d: back to the weights of %d batches ago, and on with the next batch.",
            error, self.place.rollbacks, ROLLBACKS, undone,
        )  # fmt: skip

    def _stop_if_stuck(self):
        if self.options.stop_if_stuck and self.place.stuck >= self.options.stop_if_stuck:
            raise RunError(
                f"validation loss and top-1 were those of chance {self.place.stuck} times in a row (stop_if_stuck): "
                "lower lr, lengthen warmup_epochs, and check that the images lie in the right class folders."
            )

    def _columns(self):
        """Validation columns are there from the first epoch, even where validation comes later."""
        k = f"top{min(5, self.options.num_classes)}"
        prefixes = ["", *(["ema_"] if self.step.ema else [])] if self.validate else []
        measured = [f"{prefix}{name}" for prefix in prefixes for name in ("val_loss", "top1", k)]
        return ["epoch", "lr", "train_loss", "images_per_second", *measured, "seconds"]


def _at_chance(metrics, classes):
    """Whether guessing does as well: the loss at least 0.99 ln(classes), top-1 within 3 deviations of 1 / classes."""
    chance = 1 / classes
    deviation = math.sqrt(chance * (1 - chance) / metrics.images)
    return metrics.loss >= 0.99 * math.log(classes) and metrics.top1 <= chance + 3 * deviation

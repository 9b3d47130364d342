"""The loop around the compiled step."""

import csv
import logging
import math
import time
from contextlib import nullcontext
from typing import Callable, Optional

from mindspore import nn

from ..config import Options
from ..distributed import ONE_DEVICE, World, average_parameters
from ..evaluation import Metrics
from .keeper import CheckpointKeeper
from .progress import EpochProgress
from .schedule import Schedule
from .step import TrainStep

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer:
    """Runs epochs, validates, keeps checkpoints and writes ``results.csv``, one row an epoch.

    Args:
        loader: this rank's training batches.
        schedule: the learning rate of every update; it hears of every validation.
        validate: gives the metrics of the network as it stands, or None to train without validation.
        keeper: the checkpoints; only rank 0 writes.
    """

    def __init__(self, options: Options, network: nn.Cell, step: TrainStep, loader, schedule: Schedule,
                 validate: Optional[Callable[[], Metrics]], keeper: CheckpointKeeper,
                 world: World = ONE_DEVICE):  # fmt: skip
        self.options = options
        self.network = network
        self.step = step
        self.loader = loader
        self.schedule = schedule
        self.validate = validate
        self.keeper = keeper
        self.world = world
        self.steps = loader.get_dataset_size()
        self.results = keeper.folder / "results.csv"

    def run(self) -> Optional[Metrics]:
        """Train ``epoch_size`` epochs and return the best validation metrics.

        Raises:
            InputError: an image cannot be decoded.
            FloatingPointError: the loss is no longer finite; checkpoints stay those of the epoch before.
        """
        best = None
        for epoch in range(1, self.options.epoch_size + 1):
            begin = time.time()
            self.step.start_epoch((epoch - 1) / self.options.epoch_size)
            row = self._train(epoch, self.loader.epoch(epoch))
            average_parameters(self._statistics(), self.world)
            metrics = self._metrics(epoch)
            if metrics is not None:
                self.schedule.after_validation(metrics.top1)
                row.update(val_loss=metrics.loss, top1=metrics.top1, **{f"top{metrics.k}": metrics.topk})
                best = metrics if best is None or metrics.top1 > best.top1 else best
            row["seconds"] = time.time() - begin
            self._save(epoch, metrics)
            self._record(epoch, row)
        return best

    def _train(self, epoch, epoch_batches):
        options = self.options
        progress = EpochProgress(
            epoch, options.epoch_size, self.steps, options.batch_size * self.world.size, options.log_interval,
            show=self.world.is_main,
        )  # fmt: skip
        for index, (images, labels) in enumerate(epoch_batches):
            progress.step(self.step(images, labels), self._rate(epoch, index))
        speed = progress.images_per_second
        loss = progress.mean_loss()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss} in epoch {epoch}: lower lr or set clip_grad True.")
        return {"epoch": epoch, "lr": self._rate(epoch, index), "train_loss": loss, "images_per_second": speed}

    def _rate(self, epoch, index):
        update = ((epoch - 1) * self.steps + index) // self.options.gradient_accumulation_steps
        return self.schedule.at(update)

    def _statistics(self):
        """What each rank gathers alone: the statistics of batch normalisation, and their moving averages."""
        averages = self.step.ema.averages if self.step.ema else ()
        return [p for p in (*self.network.get_parameters(), *averages) if "moving_" in p.name]

    def _metrics(self, epoch):
        due = epoch % self.options.val_interval == 0 or epoch == self.options.epoch_size
        if self.validate is None or not due:
            return None
        with self.step.ema.applied() if self.step.ema else nullcontext():
            return self.validate()

    def _save(self, epoch, metrics):
        due = epoch % self.options.ckpt_save_interval == 0 or epoch == self.options.epoch_size
        if self.world.is_main and (due or metrics is not None):
            averages = self.step.ema.averages if self.step.ema else ()
            parameters = [*self.network.get_parameters(), *averages]
            self.keeper.save(parameters, epoch, self.steps, None if metrics is None else metrics.top1)
        self.world.barrier()

    def _record(self, epoch, row):
        if not self.world.is_main:
            return
        values = {name: f"{value:.6g}" for name, value in row.items()}
        shown = "  ".join(f"{name} {value}" for name, value in values.items() if name != "epoch")
        logger.info("epoch %d/%d done  %s", epoch, self.options.epoch_size, shown)
        fresh = epoch == 1 or not self.results.exists()
        with open(self.results, "w" if fresh else "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self._columns(row))
            if fresh:
                writer.writeheader()
            writer.writerow(values)

    def _columns(self, row):
        """Validation columns are there from the first epoch, even where validation comes later."""
        names = [name for name in row if name != "seconds" and not name.startswith(("val_", "top"))]
        k = f"top{min(5, self.options.num_classes)}"
        return [*names, *(["val_loss", "top1", k] if self.validate else []), "seconds"]

"""A model to be timed in this process, compiled and warmed up."""

import time
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from mindspore import Tensor, nn

from .. import backend
from ..cells import cast_network
from ..checkpoint import create_pretrained
from ..distributed import World
from ..graph_cache import call_cached
from ..input_size import explain_size_errors
from ..models.registry import config_of, create_model
from ..options import System
from ..process import set_up
from ..reparameterize import reparameterize
from ..tasks import task_of
from ..training import Schedule, TrainStep, build_step

__all__ = ["Job", "OutOfMemoryError", "TimedModel"]

CLASSES = 1000


class OutOfMemoryError(RuntimeError):
    """A batch does not fit into the device's memory."""


@dataclass(frozen=True)
class Job:
    """A model and the settings to time it with.

    Attributes:
        train: time a training step (forward, backward and AdamW's update) instead of inference.
        pretrained: give the model its published weights.
        reparam: time inference in the reparameterized form, if the model has one.
        image_size: height and width, or None for the model's default.
        graph_cache: read the graphs of earlier processes, which makes the first call shorter.
        queued: number of consecutive calls without waiting in a turn, for the throughput.
    """

    model: str
    train: bool = False
    batch_size: int = 8
    image_size: Optional[Tuple[int, int]] = None
    reparam: bool = True
    pretrained: bool = False
    amp_level: str = "O0"
    mode: int = 0
    device_target: Optional[str] = None
    graph_cache: bool = False
    warmup: int = 2
    queued: int = 2

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the images."""
        return self.image_size or tuple(config_of(self.model).input_size[1:])


class TimedModel:
    """The model of a job, with a batch of noise in memory. Construction compiles the model and warms it up.

    Attributes:
        first: seconds of the first call, including compilation.
        device: the back end that the model runs on.
        call: runs it once and returns a tensor, which may not be ready yet.
        cell: what a call runs, the network or the training step.

    Raises:
        OutOfMemoryError: during construction, or in a turn.
        InputError: an unknown model or device, or an image size that the model does not support.
    """

    def __init__(self, job: Job):
        self.job = job
        try:
            self.call, network = self._build()
            with explain_size_errors([(job.model, network)], job.size, option="image_size"):
                self.first = self._time(1)
            for _ in range(job.warmup):
                self._time(1)
        except (RuntimeError, MemoryError) as error:
            raise _translated(error) from error

    def turn(self) -> Tuple[float, float]:
        """Seconds of one synchronous call, and seconds per call of several consecutive ones."""
        try:
            return self._time(1), self._time(self.job.queued) / self.job.queued
        except (RuntimeError, MemoryError) as error:
            raise _translated(error) from error

    def memory(self) -> Optional[int]:
        """Peak memory of the model in bytes, including compilation; None if the system does not report it."""
        peak = backend.peak_memory()
        # Linux counts a process's memory per thread and sums up late, so that a peak may read a little lower later.
        return None if peak is None else max(peak - self.before, 0)

    def _build(self):
        job = self.job
        world = set_up(System(job.mode, job.device_target, job.graph_cache))
        self.device, self.before = backend.device_target(), backend.peak_memory()
        network = network_of(job)
        if not job.train:
            network = (reparameterize(network, inplace=True) if job.reparam else network).set_train(False)
            shape = (job.batch_size, 3, *job.size)
            images = Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
            self.cell = network
            return lambda: call_cached("graph of the network", network, images), network
        self.cell, batch = training_of(job, network, world)
        step = self.cell

        def update():
            step(*batch)
            return step.weights[-1]  # the loss is ready before the update

        return update, network

    def _time(self, calls):
        start = time.perf_counter()
        for _ in range(calls):
            result = self.call()
        result.asnumpy()  # waits for the result
        backend.synchronize()
        return time.perf_counter() - start


def network_of(job: Job) -> nn.Cell:
    """The model of a job, in its precision."""
    create = create_pretrained if job.pretrained else create_model
    return cast_network(create(job.model, num_classes=CLASSES), job.amp_level)


def training_of(job: Job, network: nn.Cell, world: World) -> Tuple[TrainStep, Tuple[Tensor, ...]]:
    """What ``train.py`` would build for the model with AdamW, all else at its defaults: a step, and a batch for it."""
    task = task_of(job.model)
    options = task.train_options(
        model=job.model, num_classes=CLASSES, batch_size=job.batch_size, opt="adamw", weight_decay=0.05, warmup_epochs=0
    )
    step = build_step(options, task.objective(options, network), Schedule(options, updates_per_epoch=1000), world)
    return step, task.example_batch(options, job.size)


def _translated(error):
    return OutOfMemoryError(" ".join(str(error).split())) if backend.is_out_of_memory(error) else error

"""Timed models in separate processes, and rounds between them."""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import traceback
from dataclasses import dataclass, field
from typing import Iterator, List, Optional, Sequence

import numpy as np

from ..errors import InputError
from .subject import Job, OutOfMemoryError, TimedModel

__all__ = ["Timing", "Worker", "fitting", "measure", "take_turns"]

logger = logging.getLogger(__name__)


@dataclass
class Timing:
    """The measurements of a job.

    Attributes:
        job: the job, with the batch size that fitted into memory.
        first: seconds of the first call.
        latencies: seconds of single calls, one per round.
        queued: seconds per call of several consecutive ones, one per round.
        memory: peak memory in bytes, or None.
        ratio: throughput relative to the baseline's in the same rounds.
    """

    job: Job
    device: str
    first: float
    latencies: List[float] = field(default_factory=list)
    queued: List[float] = field(default_factory=list)
    memory: Optional[int] = None
    ratio: float = 1.0

    @property
    def compile_time(self) -> float:
        """Seconds that the first call took longer than the median of the later ones."""
        return max(0.0, self.first - float(np.median(self.latencies)))

    @property
    def images_per_second(self) -> float:
        return self.job.batch_size / float(np.median(self.queued))


def measure(jobs: Sequence[Job], rounds: int) -> Iterator[Timing]:
    """Time each job against the first, the baseline; a timing is yielded as soon as its job is done.

    Raises:
        InputError: a job does not run on this device, or even one image does not fit into memory.
    """
    with fitting(jobs[0]) as baseline:
        yield take_turns([baseline], rounds)[0]
        for job in jobs[1:]:
            with fitting(job) as worker:
                timing, reference = take_turns([worker, baseline], rounds)
            timing.ratio = timing.images_per_second / reference.images_per_second
            yield timing


def take_turns(workers: Sequence["Worker"], rounds: int) -> List[Timing]:
    """The timings of workers that take one turn each per round."""
    timings = [Timing(worker.job, *worker.start) for worker in workers]
    for _ in range(rounds):
        for worker, timing in zip(workers, timings):
            latency, queued = worker.ask("turn")
            timing.latencies.append(latency)
            timing.queued.append(queued)
    for worker, timing in zip(workers, timings):
        timing.memory = worker.ask("memory")
    return timings


def fitting(job: Job) -> "Worker":
    """Start a worker on the job; the batch size is halved until the job fits into memory."""
    while True:
        try:
            return Worker(job)
        except OutOfMemoryError as error:
            if job.batch_size == 1:
                raise InputError(
                    f"{job.model}: even one image does not fit into the device's memory: choose a smaller "
                    "image_size, or leave the model out."
                ) from error
            logger.warning("%s: out of memory with batch size %d; trying half of it", job.model, job.batch_size)
            job = dataclasses.replace(job, batch_size=job.batch_size // 2)


class Worker:
    """A process with a :class:`TimedModel`; a context manager that ends the process.

    Attributes:
        start: the device and the seconds of the first call.

    Raises:
        OutOfMemoryError: the batch does not fit, or the system killed the process for lack of memory.
        InputError: raised by the job.
        RuntimeError: any other error of the job, with its traceback.
    """

    def __init__(self, job: Job):
        self.job = job
        if "OMP_NUM_THREADS" not in os.environ:
            os.unsetenv("OMP_NUM_THREADS")  # MindSpore has set it to 1, too late for this process but not for the next
        context = multiprocessing.get_context("spawn")  # a forked MindSpore hangs
        self.connection, child = context.Pipe()
        self.process = context.Process(target=serve, args=(child, job), daemon=True)
        self.process.start()
        child.close()
        try:
            self.start = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, question: str):
        """Call the timed model's method of that name and return its result."""
        with contextlib.suppress(BrokenPipeError):  # the process has ended: receiving reports how
            self.connection.send(question)
        return self._answer()

    def close(self):
        self.connection.close()
        self.process.kill()
        self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _answer(self):
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:
                raise OutOfMemoryError(f"{self.job.model}: the system killed its process") from error
            raise RuntimeError(f"{self.job.model}: its process ended with {self.process.exitcode}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(connection, job: Job) -> None:
    """The process of a worker: build the model, then answer requests until the connection is closed."""
    try:
        model = TimedModel(job)
        connection.send((model.device, model.first))
        while True:
            connection.send(getattr(model, connection.recv())())
    except EOFError:
        return
    except (InputError, OutOfMemoryError) as error:
        connection.send(type(error)(str(error)))
    except Exception:
        connection.send(RuntimeError(f"{job.model}:\n{traceback.format_exc()}"))

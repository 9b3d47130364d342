"""Subjects in processes of their own, and rounds between them."""

import contextlib
import dataclasses
import logging
import multiprocessing
import signal
import traceback
from dataclasses import dataclass, field
from typing import Iterator, List, Optional, Sequence

import numpy as np

from ..errors import InputError
from .subject import Job, OutOfMemoryError, Subject

__all__ = ["Timing", "Worker", "fitting", "measure"]

logger = logging.getLogger(__name__)


@dataclass
class Timing:
    """What was measured of a job.

    Attributes:
        job: with the batch size that fitted.
        first: seconds of the first call.
        latencies: seconds of single calls, one a round.
        queued: seconds a call of several in a row, one a round.
        memory: bytes at the most, or None.
        ratio: throughput, in images a second, over that of the yardstick in the same rounds.
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
        """Seconds by which the first call was longer than a later one."""
        return max(0.0, self.first - float(np.median(self.latencies)))

    @property
    def images_per_second(self) -> float:
        return self.job.batch_size / float(np.median(self.queued))


def measure(jobs: Sequence[Job], rounds: int) -> Iterator[Timing]:
    """Time each job against the first, the yardstick; each is given as soon as it is done.

    Raises:
        InputError: a job does not run on this device, or not even one image of it fits into memory.
    """
    with fitting(jobs[0]) as yardstick:
        yield _race([yardstick], rounds)[0]
        for job in jobs[1:]:
            with fitting(job) as worker:
                own, reference = _race([worker, yardstick], rounds)
            own.ratio = own.images_per_second / reference.images_per_second
            yield own


def _race(workers, rounds):
    """Give each worker a turn a round: their timings."""
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
    """Start a worker on the job, with half as many images a batch as often as memory does not suffice."""
    while True:
        try:
            return Worker(job)
        except OutOfMemoryError as error:
            if job.batch_size == 1:
                raise InputError(
                    f"{job.model}: one image is too much for the memory of the device: choose a smaller image_size, or "
                    "leave the model out."
                ) from error
            logger.warning("%s: out of memory with %d images a batch; trying half", job.model, job.batch_size)
            job = dataclasses.replace(job, batch_size=job.batch_size // 2)


class Worker:
    """A process with a :class:`Subject`; leave it as a context.

    Attributes:
        start: the device and the seconds of the first call.

    Raises:
        OutOfMemoryError: the batch does not fit, or the system killed the process, which on the CPU means the same.
        InputError: the job's own error.
        RuntimeError: any other, with its traceback.
    """

    def __init__(self, job: Job):
        self.job = job
        context = multiprocessing.get_context("spawn")  # a forked MindSpore hangs
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, job), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.start = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, question: str):
        """What the subject's method of that name returns."""
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended: receiving finds out how
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
    """The process of a worker: build the subject, then answer questions until nobody asks any more."""
    try:
        subject = Subject(job)
        connection.send((subject.device, subject.first))
        while True:
            connection.send(getattr(subject, connection.recv())())
    except EOFError:
        return
    except (InputError, OutOfMemoryError) as error:
        connection.send(type(error)(str(error)))
    except Exception:
        connection.send(RuntimeError(f"{job.model}:\n{traceback.format_exc()}"))

"""Batches that any run can repeat, for training, validation and prediction alike, whatever the task."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Callable, Iterator, List, Protocol, Tuple

import numpy as np

from ..errors import InputError, RunError
from .images import UnreadableImageError
from .order import BATCH, SAMPLE, generator

__all__ = ["Loader", "Source", "pad_rows", "stack", "threads"]

Arrays = Tuple[np.ndarray, ...]


class Source(Protocol):
    """Where samples come from: ``read`` runs in the data workers, and no two calls may disturb each other."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """What is known of sample ``index``: whatever ``sample`` takes.

        Raises:
            UnreadableImageError, InputError: naming the file.
        """

    def name(self, index: int) -> str:
        """The file, for messages."""


def stack(samples: List[Arrays], _rng: np.random.Generator) -> Arrays:
    """Samples, each a tuple of arrays or numbers, as one array a place: ``(B, ...)`` each."""
    return tuple(np.stack(column) for column in zip(*samples))


@dataclass
class Loader:
    """Batches of this rank's share of a data set, made by threads ahead of time.

    Every random number comes from a generator made for its purpose, epoch and place in the epoch, so a batch depends
    on the seed, the epoch, the step, the rank and the number of ranks, and on nothing that ran before it.

    Args:
        source: where samples are read.
        order: epoch to this rank's ``(N,)`` indices into the source; has ``seed``, ``rank``, ``ranks`` and a length.
        sample: ``sample(raw, rng)``, from what the source read to a tuple of arrays; runs in the workers.
        batch_size: samples a batch.
        collate: ``collate(samples, rng)``, from the list of a batch's samples to the tuple of its arrays.
        last: what becomes of a last batch that is not full: ``"drop"`` it, ``"keep"`` it short, or ``"pad"``: add rows
            of zeros; every batch then has one array more, ``valid (batch_size,)`` bool, False for those rows.
        replace_bad: take the next sample in place of an image that cannot be decoded, rather than raise.
        workers: threads; each has one batch under way.
        prefetch: batches that are made ahead beside those; together they bound the memory.
    """

    source: Source
    order: Callable[[int], np.ndarray]
    sample: Callable[[Any, np.random.Generator], Arrays]
    batch_size: int
    collate: Callable[[List[Arrays], np.random.Generator], Arrays] = stack
    last: str = "drop"
    replace_bad: bool = False
    workers: int = 1
    prefetch: int = 1

    def __len__(self) -> int:
        """Steps an epoch."""
        samples = len(self.order)
        return samples // self.batch_size if self.last == "drop" else -(-samples // self.batch_size)

    def epoch(self, number: int = 1, start: int = 0) -> Iterator[Arrays]:
        """The batches of epoch ``number``, counted from 1, from step ``start``, counted from 0: tuples of arrays.

        Batches before ``start`` are not made. Closing the iterator early stops the workers.

        Raises:
            InputError: at a sample that cannot be read or decoded, naming its file.
            RunError: a worker failed otherwise, such as for want of memory.
        """
        shown = self.order(number)
        steps = iter(range(start, len(self)))
        with ThreadPoolExecutor(self.workers, "data") as pool:
            ahead = deque(
                pool.submit(self._batch, shown, number, step) for step in islice(steps, self.workers + self.prefetch)
            )
            try:
                while ahead:
                    batch = _result(ahead.popleft())
                    ahead.extend(pool.submit(self._batch, shown, number, step) for step in islice(steps, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def _batch(self, shown, epoch, step):
        places = range(step * self.batch_size, min((step + 1) * self.batch_size, len(shown)))
        samples = [self._sample(int(shown[place]), epoch, place) for place in places]
        rng = generator(self.order.seed, BATCH, epoch, step, self.order.rank)
        batch = self.collate(samples, rng)
        if self.last == "pad":
            batch = pad_rows((*batch, np.ones(len(samples), bool)), self.batch_size)
        return batch

    def _sample(self, wanted, epoch, place):
        # Places are counted over all ranks, so that two views of an image always differ.
        key = (self.order.seed, SAMPLE, epoch, place * self.order.ranks + self.order.rank)
        for offset in range(len(self.source) if self.replace_bad else 1):
            index = (wanted + offset) % len(self.source)
            try:
                return self.sample(self.source.read(index), generator(*key))
            except UnreadableImageError:
                if not self.replace_bad:
                    raise
            except InputError:
                raise
            except BaseException as error:
                raise _SampleError(self.source.name(index)) from error
        raise InputError("no image of the data set can be decoded: check data_dir.")


class _SampleError(Exception):
    """Names the sample at which its cause was raised."""


def _result(future):
    try:
        return future.result()
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        # One that is not an Exception, such as SystemExit, must not look like the main thread's own.
        cause = error.__cause__ if isinstance(error, _SampleError) else error
        what = f"{type(cause).__name__}: {cause}".rstrip(": ")
        where = f" at {error}" if isinstance(error, _SampleError) else ""
        raise RunError(f"a data worker died ({what}{where}); checkpoints stay as they are.") from cause


def pad_rows(arrays: Arrays, rows: int) -> Arrays:
    """Each array ``(B, ...)`` with zeros after its last row, so that it has ``rows`` of them."""
    missing = rows - len(arrays[0])
    if not missing:
        return tuple(arrays)
    return tuple(np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) for array in arrays)


def threads(wanted: int) -> int:
    """Data workers: as many as wanted, at most the machine's cores."""
    return min(wanted, os.cpu_count() or 1)

"""Requests that come at the same time go through the model together."""

import asyncio
import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Deque, List, NamedTuple, Optional, Sequence

import numpy as np

from .model_file import Tensors

__all__ = ["Batcher", "OverloadedError"]


class OverloadedError(Exception):
    """More images wait than may."""


class Item(NamedTuple):
    """A batch that waits, its rows, and the future of its outputs."""

    tensors: Tensors
    rows: int
    outputs: asyncio.Future


class Batcher:
    """Gathers batches in one event loop and runs them in one thread.

    A batch runs as soon as the model is free and ``max_batch`` rows wait, or the first of them has waited for
    ``max_delay``. While the model is busy others gather.

    Args:
        run: the outputs of each of some batches, which go through the model together.
        max_delay: in seconds.
        max_queue: rows that may wait, or be in the model.
        watch: told the rows of each run.
    """

    def __init__(self, run: Callable[[Sequence[Tensors]], List[List[np.ndarray]]], max_batch: int, max_delay: float,
                 max_queue: int, watch: Callable[[int], None] = lambda rows: None):  # fmt: skip
        self.run = run
        self.max_batch, self.max_delay, self.max_queue = max_batch, max_delay, max_queue
        self.watch = watch
        self.items: Deque[Item] = deque()
        self.held = 0
        self.thread = ThreadPoolExecutor(1, "model")
        self.some, self.full = asyncio.Event(), asyncio.Event()
        self.work: Optional[asyncio.Task] = None

    async def submit(self, tensors: Tensors) -> List[np.ndarray]:
        """The outputs for a batch of at most ``max_batch`` rows.

        Raises:
            OverloadedError: too many rows wait.
        """
        rows = len(next(iter(tensors.values())))
        if self.held + rows > self.max_queue:
            raise OverloadedError(f"{self.held} images wait already: try again later")
        if self.work is None:
            self.work = asyncio.get_running_loop().create_task(self._serve())
        item = Item(tensors, rows, asyncio.get_running_loop().create_future())
        self.items.append(item)
        self.held += rows
        try:
            self._mark()
            return await item.outputs
        finally:
            self.held -= rows

    def _mark(self) -> None:
        for event, least in ((self.some, 1), (self.full, self.max_batch)):
            if sum(item.rows for item in self.items) >= least:
                event.set()
            else:
                event.clear()

    async def _serve(self) -> None:
        while True:
            await self.some.wait()
            if not self.full.is_set() and self.max_delay:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.full.wait(), self.max_delay)
            await self._run(self._next())

    def _next(self) -> List[Item]:
        """The first items that fit into a run; those that nobody waits for any more are dropped."""
        chosen, rows = [], 0
        while self.items and rows + self.items[0].rows <= self.max_batch:
            item = self.items.popleft()
            if not item.outputs.done():
                chosen.append(item)
                rows += item.rows
        self._mark()
        return chosen

    async def _run(self, items: List[Item]) -> None:
        if not items:
            return
        self.watch(sum(item.rows for item in items))
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self.thread, self.run, [item.tensors for item in items])
        except Exception as error:  # whatever ONNX Runtime raises; the service goes on
            results = [error] * len(items)
        for item, result in zip(items, results):
            if item.outputs.done():
                continue
            if isinstance(result, Exception):
                item.outputs.set_exception(result)
            else:
                item.outputs.set_result(result)

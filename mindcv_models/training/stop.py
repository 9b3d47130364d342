"""Stopping a run from outside: SIGTERM, Ctrl-C, and the end of its terminal (SIGHUP)."""

import signal
import threading
import time
from typing import Optional

from ..distributed import World, sum_over_ranks

__all__ = ["StopRequest"]


class StopRequest:
    """A signal as a request to stop, heard between two steps, on which all ranks agree.

    A context manager: inside it the first signal is noted, and a second one acts as it always does. SIGHUP that is
    ignored, as under ``nohup``, stays so. Several ranks ask
    each other about once a second, since asking after each step would make them wait for each other.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, world: World):
        self.world = world
        self.asked = dict.fromkeys(self.SIGNALS, False)
        self.before = {}
        self.interval = 1  # steps between two questions
        self.steps = 0
        self.since = time.monotonic()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in self.SIGNALS}
            if handlers[signal.SIGHUP] == signal.SIG_IGN:
                del handlers[signal.SIGHUP]
            self.before = handlers
        self._listen()
        return self

    def _listen(self):
        for number in self.before:
            if not self.asked[number]:
                signal.signal(number, self._note)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.asked[number] = True
        signal.signal(number, self.before[number])

    def check(self) -> Optional[int]:
        """Call after each step, on every rank: the signal if it is time to stop, the same everywhere."""
        self._listen()  # MindSpore, compiling a graph, sets a handler of its own that makes SIGTERM of SIGINT
        self.steps += 1
        if self.world.size > 1 and self.steps < self.interval:
            return None
        seconds = (time.monotonic() - self.since) / self.steps if self.world.is_main else 0.0
        *asked, seconds = sum_over_ranks([*self.asked.values(), seconds], self.world)
        self.interval = min(max(int(1 / max(seconds, 1e-6)), 1), 100)
        self.steps, self.since = 0, time.monotonic()
        given = [number for number, count in zip(self.SIGNALS, asked) if count]
        return given[-1] if given else None

"""Stopping a run from outside: SIGTERM, Ctrl-C, and the end of its terminal (SIGHUP)."""

import os
import signal
import subprocess
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

    That a signal was heard is said at once. While the compiler works no line of Python runs, so a process of its own
    waits for that.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, world: World):
        self.world = world
        self.asked = dict.fromkeys(self.SIGNALS, False)
        self.before = {}
        self.herald = None
        self.interval = 1  # steps between two questions
        self.steps = 0
        self.since = time.monotonic()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in self.SIGNALS}
            if handlers[signal.SIGHUP] == signal.SIG_IGN:
                del handlers[signal.SIGHUP]
            self.before = handlers
            self.herald = _Herald() if self.world.is_main else None
        self._listen()
        return self

    def _listen(self):
        for number in self.before:
            if not self.asked[number]:
                signal.signal(number, self._note)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.herald:
            self.herald.close()

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


class _Herald:
    """Prints a line to standard error as soon as a signal comes that Python has a handler for.

    Python's own handler writes a byte to a pipe, without its lock; a shell reads it.
    """

    HEARD = "heard: the run stops after this step; a graph that is being compiled is finished first"
    SCRIPT = "trap '' INT TERM HUP; [ \"$(head -c 1 | wc -c)\" -gt 0 ] && printf '%s\\n' \"$0\" >&2; cat > /dev/null"

    def __init__(self):
        reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        try:
            self.shell = subprocess.Popen(["sh", "-c", self.SCRIPT, self.HEARD], stdin=reading)
        except OSError:  # no shell, or no room for a process: the run stops all the same
            self.shell = None
        finally:
            os.close(reading)
        self.before = signal.set_wakeup_fd(self.writing if self.shell else -1, warn_on_full_buffer=False)

    def close(self) -> None:
        signal.set_wakeup_fd(self.before)
        os.close(self.writing)
        if self.shell:
            self.shell.wait()

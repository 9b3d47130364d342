"""What the benchmarks of tools/ share: works in turns, and a network's part as a network."""

import time
from typing import Callable, Dict

import numpy as np
from mindspore import nn

__all__ = ["Part", "medians"]


def medians(rounds: int, **works: Callable[[], object]) -> Dict[str, float]:
    """The median seconds of each work over ``rounds`` rounds, each with all of them, after one that does not count."""
    seconds = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


class Part(nn.Cell):
    """A part of a network as a network of its own; several inputs reach it as one tuple."""

    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, *inputs):
        return self.cell(inputs) if len(inputs) > 1 else self.cell(inputs[0])

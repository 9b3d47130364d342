"""The run's numbers for TensorBoard, by tensorboardX."""

import math
import time
from pathlib import Path
from typing import Dict

from ..errors import InputError

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes each epoch's row of ``results.csv`` as scalars, into ``tensorboard/`` of the run's folder.

    A run that is resumed goes on in the same folder; what was written of epochs that are done again is superseded. Used
    as a context, whose end waits until everything is on disk.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "tensorboard is True, but tensorboardX is not installed: pip install tensorboardX, or set it to False."
            ) from error
        self.folder = folder / "tensorboard"
        self.create = SummaryWriter
        self.writer = None

    def __call__(self, row: Dict[str, float]) -> None:
        """Take the numbers of one epoch, whose number is ``row["epoch"]``."""
        epoch = int(row["epoch"])
        if self.writer is None:
            # The name has the second in it, and two of a run must not meet.
            suffix = f".{time.time_ns()}"
            self.writer = self.create(str(self.folder), purge_step=epoch, filename_suffix=suffix)
        for name, value in row.items():
            if name != "epoch" and not math.isnan(value):
                self.writer.add_scalar(name, float(value), epoch)
        self.writer.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.writer is not None:
            self.writer.close()

"""``results.csv``: one row an epoch."""

import logging
import math
from pathlib import Path
from typing import Callable, Dict, List, Optional

from ..evaluation import csv_text
from ..files import write_text

__all__ = ["Results"]

logger = logging.getLogger(__name__)


class Results:
    """The rows of a run so far, in memory and on disk; the file is rewritten atomically.

    Args:
        on_epoch_end: called with each new row.

    Attributes:
        rows: a mapping of column to text for each epoch.
    """

    def __init__(
        self, path: Path, columns: List[str], on_epoch_end: Optional[Callable[[Dict[str, float]], None]] = None
    ):
        self.path = path
        self.columns = columns
        self.on_epoch_end = on_epoch_end
        self.rows: List[Dict[str, str]] = []

    def add(self, row: Dict[str, float]) -> None:
        """Log an epoch and write it."""
        texts = {name: "" if isinstance(v, float) and math.isnan(v) else f"{v:.6g}" for name, v in row.items()}
        shown = "  ".join(f"{name} {text}" for name, text in texts.items() if text and name != "epoch")
        logger.info("epoch %s done  %s", texts["epoch"], shown)
        self.rows.append(texts)
        self._write()
        if self.on_epoch_end is not None:
            self.on_epoch_end(row)

    def state_dict(self) -> list:
        return self.rows

    def load_state_dict(self, rows: list) -> None:
        """Go back to ``rows``; the file follows with the next one added."""
        self.rows = [dict(row) for row in rows]

    def _write(self):
        write_text(self.path, csv_text(self.columns, self.rows))

"""Files that are written completely or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Iterator

__all__ = ["atomic_write", "write_text"]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; without an error it replaces ``path``, flushed to disk first.

    Until then a file that is at ``path`` stays as it is, and after an error nothing is left of the temporary one. Its
    name is ``.<name>.<process>.partial`` with the suffix of ``path``, since some writers go by the suffix.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")

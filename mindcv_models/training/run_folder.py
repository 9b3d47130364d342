"""The folder of a run: it belongs to one process at a time, and to one run at a time."""

import errno
import fcntl
import logging
import os
import re
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Iterator, List

from ..distributed import World, sum_over_ranks
from ..errors import InputError

__all__ = ["locked", "set_earlier_run_aside"]

logger = logging.getLogger(__name__)

EARLIER = "earlier"  # the subfolder that earlier runs are moved to

# What a run writes; everything else in its folder stays where it is.
_OWN = re.compile(
    r"results\.csv|config\.yaml|classes\.txt|report|tensorboard|state|.+_(best|last)\.ckpt|.+-\d+_\d+\.ckpt"
)
_PREPARATIONS = ("config.yaml", "classes.txt", "split.json")


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Keep other runs out of ``folder`` while this one writes to it; a lock of a process that died is none.

    A folder that was empty is empty again if wrong input ends the run before it has saved anything of its training.

    Raises:
        InputError: on every rank, if another process has the folder.
    """
    lock, is_taken = None, False
    if world.is_main:
        try:
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some network file systems cannot lock a folder
            is_taken = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    try:
        if sum_over_ranks([is_taken], world)[0]:
            raise InputError(f"another run is writing to {folder}: wait for its end, or choose another ckpt_save_dir.")
        is_new = world.is_main and not any(folder.iterdir())
        try:
            yield
        except (InputError, KeyboardInterrupt):
            if is_new and not _left_in(folder):
                _remove_preparations(folder)
            raise
    finally:
        if lock is not None:
            os.close(lock)


def _remove_preparations(folder: Path) -> None:
    """Remove what a run writes before its first step: it ended there, and the next one is not to find them."""
    for name in _PREPARATIONS:
        (folder / name).unlink(missing_ok=True)


def set_earlier_run_aside(folder: Path, resume: str = "") -> None:
    """Move what an earlier run left in ``folder`` to a subfolder of its own; a new run neither takes nor replaces it.

    Args:
        resume: the option of that name; a run that continues the one in ``folder`` moves nothing.

    Raises:
        OSError: it cannot be moved.
    """
    left = _left_in(folder)
    if not left or _continues(folder, resume):
        return
    began = datetime.fromtimestamp(min(path.stat().st_mtime for path in left)).strftime("%Y-%m-%d_%H-%M-%S")
    target = _unused(folder / EARLIER / began)
    target.mkdir(parents=True)
    for path in left:
        path.rename(target / path.name)
    logger.warning("%s has an earlier run, which is now in %s; to continue a run, use --resume auto.", folder, target)


def _continues(folder, resume):
    if resume in ("", "auto"):
        return resume == "auto"
    return Path(resume).resolve().is_relative_to(folder.resolve())


def _left_in(folder: Path) -> List[Path]:
    """Files and folders of a run that trained: a configuration or class names alone are none."""
    own = sorted(path for path in folder.iterdir() if _OWN.fullmatch(path.name))
    trained = any(path.suffix == ".ckpt" or path.name in ("results.csv", "state") for path in own)
    return own if trained else []


def _unused(path: Path) -> Path:
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('.')[0]}.{number}")
    return path

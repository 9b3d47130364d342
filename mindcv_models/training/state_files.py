"""The files of run states: which there are, which of them are whole, and how they are written."""

import json
import logging
import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional

import numpy as np

from ..distributed import World, sum_over_ranks
from ..errors import InputError
from ..files import atomic_write, read_arrays, remove_partials

__all__ = ["SavedState", "StateFiles"]

logger = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before it to fall back on
_METADATA = "facts"  # the member of a file that is not an array, by the name that it has had from the first
_NAME = re.compile(r"(\d{1,11})-(\d{1,15})-(\d{1,15})-rank\d{1,9}\.npz", re.ASCII)


@dataclass(frozen=True, order=True)
class _Name:
    """A state: the run that it belongs to, by the second in which that began, and its place in it."""

    run: int
    epoch: int
    step: int

    def file(self, rank: int) -> str:
        return f"{self.run}-{self.epoch}-{self.step}-rank{rank}.npz"

    @classmethod
    def of(cls, path: Path) -> Optional["_Name"]:
        found = _NAME.fullmatch(path.name)
        return cls(*map(int, found.groups())) if found else None


@dataclass(frozen=True)
class SavedState:
    """What the files of one state hold for a rank; ``path`` is the rank's own file, for messages."""

    path: Path
    metadata: dict
    arrays: Dict[str, np.ndarray]


class StateFiles:
    """The run states in ``<ckpt_save_dir>/state``: the newest and the one before.

    Rank 0 writes what all ranks share, each other rank what is its own alone. A file is a NumPy archive with a
    checksum for each array; it gets its name when it is whole and on the disk, and only then an old one goes.

    Args:
        folder: on a disk that every host sees.
    """

    def __init__(self, folder: Path, world: World):
        self.folder = folder
        self.world = world
        if folder.exists() and not folder.is_dir():  # an epoch later it would be too late
            raise InputError(f"{folder} is no folder, but a run's states go there: move it, or change ckpt_save_dir.")
        remove_partials(folder)  # by a run that was killed
        self.run = int(sum_over_ranks([int(time.time()) if world.is_main else 0], world)[0])

    def save(self, epoch: int, step: int, metadata: dict, arrays: Dict[str, np.ndarray]) -> None:
        """Write this rank's file.

        Raises:
            OSError: it cannot be written; the states before are as they were.
        """
        self.folder.mkdir(exist_ok=True)
        name = _Name(self.run, epoch, step)
        path = self.folder / name.file(self.world.rank)
        with atomic_write(path) as partial:
            _write(partial, metadata, arrays)
        for old in self._stale(name):
            old.unlink(missing_ok=True)

    def newest(self, folder: Optional[Path] = None) -> Optional[SavedState]:
        """The newest state that every rank can read, or None if there is none.

        A damaged file is passed over, and a warning says so. The run that these files belong to goes on.
        """
        for name in self._agreed(self._own_files(folder or self.folder)):
            found = self._read(folder or self.folder, name)
            if found is not None:
                return found
        return None

    def exist(self) -> bool:
        """Whether any rank has a file here, whole or not."""
        return bool(sum_over_ranks([len(self._own_files())], self.world)[0])

    def read(self, path: Path) -> SavedState:
        """One state, by the path of any rank's file.

        Raises:
            InputError: no such state, or damaged.
        """
        name = _Name.of(path)
        found = self._read(path.parent, name) if name else None
        if found is None:
            raise InputError(f"{path} is not a whole state of a run: use --resume auto, or a file of a state folder.")
        return found

    def _stale(self, newest):
        # After falling back to an earlier state there are later ones; they lead nowhere.
        files = self._own_files()
        past = [path for path in files if _Name.of(path) <= newest]
        return [path for path in files if path not in past[:KEPT]]

    def _own_files(self, folder=None) -> List[Path]:
        """This rank's files, the newest first; those of a run begun later count as newer."""
        paths = (folder or self.folder).glob(f"*-rank{self.world.rank}.npz")
        return sorted((p for p in paths if _Name.of(p)), key=_Name.of, reverse=True)

    def _agreed(self, own) -> Iterable[_Name]:
        """The states that rank 0 has, the newest first, the same on every rank."""
        names = [_Name.of(path) for path in own[: 2 * KEPT]] if self.world.is_main else []
        table = np.zeros((2 * KEPT, 3))
        table[: len(names)] = [[n.run, n.epoch, n.step] for n in names] or np.zeros((0, 3))
        for row in sum_over_ranks(table.ravel(), self.world).reshape(table.shape):
            if row.any():
                yield _Name(*(int(number) for number in row))

    def _read(self, folder, name):
        metadata, arrays = {}, {}
        whole = True
        for rank in sorted({0, self.world.rank}):
            path = folder / name.file(rank)
            if not path.exists():
                whole = False
                continue
            try:
                metadata, more = _read(path)
            except (ValueError, KeyError, AttributeError, RecursionError):  # an InputError is a ValueError
                logger.warning("%s is damaged (cut off, or changed): going back to the state before it.", path)
                whole = False
            else:
                arrays.update(more)
        if sum_over_ranks([whole], self.world)[0] < self.world.size:
            return None
        self.run = name.run
        return SavedState(folder / name.file(self.world.rank), metadata, arrays)


def _write(path, metadata, arrays):
    # What numpy.savez does, except that a full disk leaves no archive open.
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, _METADATA, np.frombuffer(json.dumps(metadata).encode(), np.uint8))
        for name, value in arrays.items():
            _add(archive, f"array/{name}", value)


def _add(archive, name, value):
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)


def _read(path):
    arrays = read_arrays(path, "state of a run")
    metadata = json.loads(arrays.pop(_METADATA).tobytes())
    return metadata, {name.removeprefix("array/"): value for name, value in arrays.items()}

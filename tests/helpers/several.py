"""Scripts one after another in the same processes, since starting them takes longer than most scripts run.

mpirun -n 2 python -m tests.helpers.several FOLDER        (or msrun, or no launcher)

``FOLDER/scripts.json`` names the modules and their arguments; each rank writes what a script printed beside it.
"""

import contextlib
import functools
import importlib
import json
import os
import sys
from pathlib import Path
from typing import List, NamedTuple

import mindspore as ms

from mindcv_models import process
from mindcv_models.distributed import launch, leave_world
from tests.helpers import dense_tiny, tiny, tiny_detector  # noqa: F401, they register their networks


class Done(NamedTuple):
    """What became of a script: exit status and printed text of each rank."""

    status: List[int]
    stdout: List[str]
    stderr: List[str]


def several(start, folder, scripts) -> List[Done]:
    """Run ``(module, arguments)`` after ``(module, arguments)`` in the processes that ``start`` is given to start.

    Args:
        start: called with the arguments of Python; the finished process.
    """
    folder.mkdir(parents=True)
    (folder / "scripts.json").write_text(json.dumps([[name, [*map(str, words)]] for name, words in scripts]))
    done = start("-m", "tests.helpers.several", folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return [_done(folder, number) for number in range(len(scripts))]


def _done(folder, number):
    ranks = range(len(list(folder.glob(f"{number}-*.status"))))
    texts = [[(folder / f"{number}-{rank}.{kind}").read_text() for rank in ranks] for kind in ("out", "err")]
    return Done([int((folder / f"{number}-{rank}.status").read_text()) for rank in ranks], *texts)


@contextlib.contextmanager
def _printing_to(path):
    """What this process prints goes to two files."""
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        for stream, kind in ((1, "out"), (2, "err")):
            with open(f"{path}.{kind}", "wb") as file:
                os.dup2(file.fileno(), stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), kept):
            os.dup2(before, stream)


def main():
    folder, rank = Path(sys.argv[1]), launch().rank
    ms.communication.init = functools.cache(ms.communication.init)
    process.leave_world = lambda status: None  # until the last script is done
    for number, (name, words) in enumerate(json.loads((folder / "scripts.json").read_text())):
        sys.argv = [f"{name}.py", *words]
        with _printing_to(folder / f"{number}-{rank}"):
            try:
                process.run(importlib.import_module(name).main)
            except SystemExit as left:
                (folder / f"{number}-{rank}.status").write_text(str(left.code))
    leave_world(0)


if __name__ == "__main__":
    main()

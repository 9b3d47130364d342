"""Programs in processes of their own, alone or as the two ranks of a job."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Seconds: what takes longer hangs. On a slow, loaded machine the longest job here needs a tenth of it.
PATIENCE = 600
ONE = [sys.executable]
TWO_RANKS = [str(BIN / "mpirun"), "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable]
# msrun starts whatever "python" is on the path.
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
               "OMP_NUM_THREADS": "1"}  # fmt: skip


def run(*command, **environment):
    """The finished process of a command, with the text that it printed."""
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env={**ENVIRONMENT, **environment}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip

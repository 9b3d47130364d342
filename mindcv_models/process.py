"""Start-up and exit of every script."""

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import List, Sequence

import mindspore as ms
from mindcv.utils import set_seed

from .distributed import World, join_world, launch, leave_world
from .errors import InputError, RunError, Stopped, one_line
from .graph_cache import use_graph_cache
from .options import System

__all__ = ["log_to_stderr", "output_folder", "run", "set_up"]

# What MindSpore leaves in the working directory: its compiler of fused kernels when it first compiles one, and a graph
# that could not be compiled. The latter stays where a traceback refers to it. Files come before their folders.
_STRAYS = tuple(map(Path, ("dsa_transfrom.log", "rank_0/om/analyze_fail.ir", "rank_0/om", "rank_0")))

_made: List[Path] = []  # folders that output_folder made, each before the one that it is in


def run(main) -> None:
    """Call a script's ``main`` and exit with the status that it returns, or 0.

    Errors print one line: status 2 on invalid input, 1 on a failed run, 143 after SIGTERM, 130 after Ctrl-C,
    129 after SIGHUP.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as scripts have it while they import
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _replace_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):  # a name that the locale cannot write is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its fonts and folders
    logging.raiseExceptions = False  # a closed or full standard output costs the log, not a traceback for each line
    if launch().rank > 0:
        logging.disable(logging.INFO)
    strays = [path for path in map(Path.absolute, _STRAYS) if not path.exists()]
    try:
        status = main() or 0
    except InputError as error:
        status = _complain(error, 2)
    except RunError as error:
        status = _complain(error, 1)
    except Stopped as error:
        logging.getLogger(__name__).info("%s", error)
        status = 128 + error.signal
    except KeyboardInterrupt:
        status = _complain("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has seen enough
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if not error.filename:
            raise
        path = error.filename2 or error.filename
        status = _complain(f"cannot use {path} ({error.strerror}): check path, permissions and room on the disk.", 1)
    _clean_up(strays)
    _flush_output()
    gc.collect()  # cells freed at interpreter exit print warnings
    leave_world(status)
    sys.exit(status)


def _replace_closed_streams() -> None:
    """Whoever starts a script may have closed its output; Python then has none, and what is printed goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, until the process ends


def log_to_stderr() -> None:
    """Write the log of a script whose results go to standard output to standard error from now on."""
    for handler in logging.getLogger().handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setStream(sys.stderr)


def set_up(options: System) -> World:
    """Select the device and the mode, join the other processes and seed the random generators.

    Raises:
        InputError: the device is not available, or ``distribute`` does not match how the process was started.
    """
    if options.device_target:
        try:
            ms.set_device(options.device_target)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"device_target {options.device_target} is not usable on this machine: "
                "install that back end's MindSpore and driver, or choose another device_target."
            ) from error
    ms.set_context(mode=options.mode)
    if options.graph_cache is not None:
        use_graph_cache(options.graph_cache)
    world = join_world(options.distribute)
    set_seed(options.seed, world.rank)
    return world


def output_folder(path: str, option: str = "ckpt_save_dir") -> Path:
    """Create the folder for results; ``option`` is the option that names it.

    It is made before anything is read, so that a run does not find out at its end; :func:`run` removes it again if
    nothing came into it.

    Raises:
        InputError: it cannot be created or is not writable; or it has the table of a training run, and another table
            would replace that.
    """
    folder = Path(path or "./ckpt")
    if option == "report_dir" and _has_table_of_a_run(folder):
        raise InputError(
            f"report_dir is {folder}, whose results.csv is a training run's and would be lost: choose another folder."
        )
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _made.extend(made)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another {option}.") from error


def _clean_up(strays: Sequence[Path]) -> None:
    """Remove the output folders of this process that have nothing in them, and files that nobody asked for."""
    for path in strays:
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
    for folder in _made:
        with contextlib.suppress(OSError):
            folder.rmdir()
    _made.clear()


def _has_table_of_a_run(folder: Path) -> bool:
    try:
        with open(folder / "results.csv", "rb") as file:
            return file.read(6) == b"epoch,"
    except OSError:
        return False


def _flush_output():
    """Flush what was printed; where nobody reads it any more, leave nothing for the interpreter to complain about."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error, status):
    # An error on all ranks is printed once, by rank 0; an error on one rank is printed by that rank.
    if launch().rank == 0 or getattr(error, "of_one_rank", False):
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    return status

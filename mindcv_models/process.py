"""What every script does first and last."""

import gc
import logging
import sys
import tempfile
from pathlib import Path

import mindspore as ms
from mindcv.utils import set_seed

from .distributed import World, join_world, launched_rank
from .errors import InputError, RunError, Stopped
from .options import Options

__all__ = ["output_folder", "run", "set_up"]


def run(main) -> None:
    """Call a script's ``main`` and exit with its status.

    What it returns, or 0; with one line each, 2 on wrong input, 1 on a failed run, 143 after SIGTERM, 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if launched_rank() > 0:
        logging.disable(logging.INFO)
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
    sys.stdout.flush()
    gc.collect()  # cells that are left to the interpreter's end complain then, one by one
    sys.exit(status)


def set_up(options: Options) -> World:
    """Choose the device and the mode, join the other processes and seed the random numbers.

    Raises:
        InputError: the device is not there, or ``distribute`` does not fit how the process was started.
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
    world = join_world(options.distribute)
    set_seed(options.seed, world.rank)
    return world


def output_folder(path: str, option: str = "ckpt_save_dir") -> Path:
    """Make a folder for results, which ``option`` names.

    Raises:
        InputError: it cannot be made or written to.
    """
    folder = Path(path or "./ckpt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another {option}.") from error


def _complain(error, status):
    # What is wrong for every rank is said once; an image that cannot be decoded is one rank's trouble.
    if launched_rank() == 0 or getattr(error, "of_one_rank", False):
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return status

"""What a script does before it imports MindSpore: scripts import this module first."""

import glob
import importlib.util
import os
import signal
import sys
import warnings
from typing import Optional

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself


def begin() -> None:
    """See that MindSpore and its packages can be imported, and that Ctrl-C meanwhile is no traceback.

    On the CPU the script is begun anew with MindSpore's jemalloc, if ``LD_PRELOAD`` is not set, not even to nothing.
    Exits with status 2 and one line where the working directory is gone, which MindSpore asks for.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until mindcv_models.process.run
    if any(action == "error" for action, *_ in warnings.filters):  # PYTHONWARNINGS: other packages' are no errors here
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        os.environ["PYTHONWARNINGS"] = "default,ignore::DeprecationWarning"
    try:
        os.getcwd()
    except OSError as error:
        print(f"error: no working directory ({error.strerror}): change to a folder that exists.", file=sys.stderr)
        sys.exit(2)
    library = allocator()
    if library and sys.gettrace() is None:  # a debugger would lose the process
        os.environ["LD_PRELOAD"] = library
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def allocator() -> Optional[str]:
    """The library whose ``malloc`` lets MindSpore compile in two thirds of the time, or None where it stays out.

    On Ascend, CANN brings its own; on GPU it was not tried.
    """
    if "LD_PRELOAD" in os.environ or glob.glob("/dev/davinci[0-9]*") or glob.glob("/dev/nvidia[0-9]*"):
        return None
    spec = importlib.util.find_spec("mindspore")
    if spec is None:
        return None
    path = os.path.join(os.path.dirname(spec.origin), "lib", "libjemalloc.so.2")
    is_one_word = not set(path) & set(" :")  # which separate libraries
    return path if os.path.isfile(path) and is_one_word else None

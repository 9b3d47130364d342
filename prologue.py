"""What a script does before it imports MindSpore: scripts import this module first."""

import os
import signal
import sys
import warnings

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself


def begin() -> None:
    """See that MindSpore and its packages can be imported, and that Ctrl-C meanwhile is no traceback.

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

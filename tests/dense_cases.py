"""Run the reference cases of a folder, or some of them.

    python tests/dense_cases.py FOLDER
    python tests/dense_cases.py FOLDER --only retinanet_detect miou

Prints a line a case: its id, the largest difference beside its tolerance (the one that comes nearest to its tolerance,
or exceeds it most), and ok or what differs. The exit status is 1 if a case differs, and 2 if there is nothing to run.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import mindspore as ms
import numpy as np

from mindcv_models.errors import InputError
from tests.helpers import dense


def line(case) -> str:
    """What there is to say of a case."""
    try:
        found = dense.differences(case)
    except InputError as error:
        return f"{case['id']}  -  -  {error}"
    except Exception as error:  # one case's failure must not hide the others
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        return f"{case['id']}  -  -  {type(error).__name__}: {reason[0]}"
    worst = max(found, key=share)
    wrong = [d.what for d in found if not d.ok]
    result = f"{', '.join(wrong[:4])} {'differ' if len(wrong) > 1 else 'differs'}" if wrong else "ok"
    return f"{case['id']}  {worst.value:.3g}  {worst.tolerance:.3g}  {result}"


def share(difference) -> float:
    """How much of its tolerance a difference takes."""
    taken = difference.value / difference.tolerance if difference.tolerance else difference.value * 1e9
    return np.nan_to_num(taken, nan=np.inf)


def chosen(folder, only):
    """The cases to run.

    Raises:
        InputError: the folder has no list of cases, or not all that are asked for.
    """
    cases = dense.cases(folder)
    unknown = sorted(set(only) - {case["id"] for case in cases})
    if unknown:
        raise InputError(f"{folder} has no case {', '.join(unknown)}; its cases: {', '.join(c['id'] for c in cases)}.")
    return [case for case in cases if not only or case["id"] in only]


def main(folder, *only) -> int:
    ms.set_context(mode=ms.GRAPH_MODE)
    dense.load_kinds()
    try:
        cases = chosen(folder, only)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    failed = False
    for case in cases:
        text = line(case)
        failed |= not text.endswith("  ok")
        print(text, flush=True)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with a cases.json and the arrays that it names")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="run these cases alone")
    options = parser.parse_args()
    sys.exit(main(options.folder, *options.only))

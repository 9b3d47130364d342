"""Run every reference case of a folder: python tests/dense_cases.py FOLDER [ID ...]

Prints a line a case: its id, the largest difference beside its tolerance (the one that comes nearest to its tolerance,
or exceeds it most), and ok or what differs. The exit status is 1 if a case differs.
"""

import os
import sys
import traceback
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import mindspore as ms

from tests.helpers import dense


def line(case) -> str:
    """What there is to say of a case."""
    try:
        if case["kind"] not in dense.KINDS:
            raise KeyError(f"no check for cases of kind {case['kind']}")
        found = dense.differences(case)
    except Exception as error:  # one case's failure must not hide the others
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        return f"{case['id']}  -  -  {type(error).__name__}: {reason[0]}"
    worst = max(found, key=lambda d: d.value / d.tolerance if d.tolerance else d.value * 1e9)
    wrong = [d.what for d in found if not d.ok]
    result = f"{', '.join(wrong[:4])} {'differ' if len(wrong) > 1 else 'differs'}" if wrong else "ok"
    return f"{case['id']}  {worst.value:.3g}  {worst.tolerance:.3g}  {result}"


def main(folder, *names) -> int:
    ms.set_context(mode=ms.GRAPH_MODE)
    dense.load_kinds()
    failed = False
    for case in dense.cases(folder):
        if names and case["id"] not in names:
            continue
        text = line(case)
        failed |= not text.endswith(" ok")
        print(text, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

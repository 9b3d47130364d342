"""Write the report of a run that was interrupted or is still running.

python tools/report.py outputs/fastvit_t8_digits
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models.errors import InputError
from mindcv_models.options import parse, peek
from mindcv_models.process import run
from mindcv_models.tasks import task_of
from mindcv_models.training.report import read_results, write_report


def main():
    if len(sys.argv) != 2:
        raise InputError(
            "give one folder, the ckpt_save_dir of a run: python tools/report.py outputs/fastvit_t8_digits"
        )
    folder = Path(sys.argv[1])
    logging.getLogger("report").info("%s", write_report(folder, read_run(folder)))


def read_run(folder):
    """The options of the run whose folder this is."""
    read_results(folder / "results.csv")  # a folder without a run is refused as such
    arguments = ["-c", str(folder / "config.yaml")]
    return parse(task_of(peek("model", arguments)).train_options, "", arguments)


if __name__ == "__main__":
    run(main)

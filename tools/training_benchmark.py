"""Compare the throughput of train.py's loop with that of its compiled step alone, in alternating turns.

python tools/training_benchmark.py -c configs/fastvit/fastvit_t8_ascend.yaml --image_resize 64 --batch_size 32
python tools/training_benchmark.py -c configs/litv2/litv2_s_ascend.yaml --batch_size 8 --steps 8 --rounds 5

Takes train.py's options. The loop reads JPEG files of 500 x 375, which are made on the way, with the recipe's
augmentation; the step alone gets one batch that stays in memory. In float32 and without MESA, on one device. Saving is
not counted.
"""

import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from mindspore import Tensor

from mindcv_models.classification.options import TrainOptions
from mindcv_models.options import option, parse
from mindcv_models.process import run, set_up
from mindcv_models.tasks import task_of
from mindcv_models.training import CheckpointManager, Schedule, Trainer, build_network, build_step
from tools.data_benchmark import write_photographs

logger = logging.getLogger("training_benchmark")


@dataclass
class BenchmarkOptions(TrainOptions):
    title = "Benchmark"

    steps: int = option(24, "steps that a turn takes", at_least=1)
    rounds: int = option(7, "turns of each, after one that does not count", at_least=1)


def main():
    given = parse(BenchmarkOptions, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), given.steps * given.batch_size)
        options = replace(
            given, data_dir=folder, dataset="", num_classes=2, ckpt_path="", ckpt_save_policy="none",
            distribute=False, val_while_train=False, amp_level="O0", loss_scale_type="fixed", loss_scale=1.0,
            drop_overflow_update=False, mesa=0.0,
        )  # fmt: skip
        world = set_up(options)
        task = task_of(options.model)
        options = task.prepare(options, world)
        network = build_network(options, world)
        loader = task.train_loader(options, world)
        schedule = Schedule(options, len(loader))
        step = build_step(options, task.objective(options, network), schedule, world)
        checkpoints = CheckpointManager(Path(folder), options.model, "none", keep_max=1)
        trainer = Trainer(options, step, loader, schedule, None, checkpoints)
        batch = tuple(Tensor(array) for array in next(loader.epoch(1)))
        logging.getLogger("mindcv_models").setLevel(logging.WARNING)
        speeds = {"step alone": [], "loop": []}
        for epoch in range(1, given.rounds + 2):
            speeds["step alone"].append(images_per_second(step, batch, given.steps))
            trainer.options = replace(options, epoch_size=epoch)
            trainer.run()
            speeds["loop"].append(float(trainer.results.rows[-1]["images_per_second"]))
    logger.info("%s at %s, %d images a batch", options.model, options.image_resize, options.batch_size)
    logger.info("%-12s %8s %9s %9s", "images/s", "median", "smallest", "largest")
    for name, (_, *values) in speeds.items():
        logger.info("%-12s %8.1f %9.1f %9.1f", name, np.median(values), min(values), max(values))
    logger.info("loop / step alone: %.3f", np.median(speeds["loop"][1:]) / np.median(speeds["step alone"][1:]))


def images_per_second(step, batch, count) -> float:
    """Up to the last loss, as the loop's own figure is."""
    begin = time.perf_counter()
    for _ in range(count):
        loss = step(*batch)
    loss.asnumpy()
    speed = count * len(batch[0]) / (time.perf_counter() - begin)
    step.weights[-1].asnumpy()  # which waits for the last update
    return speed


if __name__ == "__main__":
    run(main)

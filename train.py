"""Train or fine-tune a classifier of this project or of MindCV.

python train.py --config configs/fastvit/fastvit_t8_digits.yaml --distribute False
python train.py --data_dir /path/to/images --check_data True
mpirun -n 8 python train.py --config configs/fastvit/fastvit_t8_ascend.yaml --data_dir /path/to/imagenet
msrun --worker_num=8 --local_worker_num=8 train.py --config ... --data_dir /path/to/imagenet
"""

import logging
from contextlib import nullcontext

import prologue

if __name__ == "__main__":
    prologue.begin()

from mindcv_models.data.check import report
from mindcv_models.distributed import on_every_rank
from mindcv_models.options import parse, peek, save_options
from mindcv_models.process import output_folder, run, set_up
from mindcv_models.tasks import task_of
from mindcv_models.training import CheckpointManager, Schedule, Trainer, build_network, build_step
from mindcv_models.training.report import write_report
from mindcv_models.training.run_folder import locked, set_earlier_run_aside
from mindcv_models.training.tensorboard import TensorBoard

logger = logging.getLogger("train")


def main():
    task = task_of(peek("model"))
    options = parse(task.train_options, __doc__)
    if options.check_data:
        return report(task.look_at_data(options), options.skip_bad_images)
    world = set_up(options)
    folder = output_folder(options.ckpt_save_dir)
    with locked(folder, world):
        train(task, options, folder, world)
    return 0


def train(task, options, folder, world):
    options = task.prepare(options, world)
    network = build_network(options, world)
    loader = task.train_loader(options, world)
    steps = len(loader)
    schedule = Schedule(options, -(-steps // options.gradient_accumulation_steps))
    objective = task.objective(options, network)
    step = build_step(options, objective, schedule, world)
    validator = task.validator(options, network, world) if options.val_while_train else None
    on_every_rank(lambda: world.is_main and write_names(task, options, folder), world)
    checkpoints = CheckpointManager(folder, options.model, options.ckpt_save_policy, options.keep_checkpoint_max)

    parameters = sum(p.size for p in network.trainable_params())
    logger.info(
        "%s: %s parameters, %d classes; %d epochs of %d steps of %d x %d images in %s mode",
        options.model, f"{parameters:,}", options.num_classes, options.epoch_size,
        steps, world.size, options.batch_size, ("graph", "PyNative")[options.mode],
    )  # fmt: skip
    with TensorBoard(folder) if options.tensorboard and world.is_main else nullcontext() as tensorboard:
        trainer = Trainer(options, step, loader, schedule, validator, checkpoints, world, tensorboard)
        with task.explain_errors(options, objective):
            best = trainer.run()
    logger.info("last checkpoint: %s", checkpoints.last)
    if best is not None:
        logger.info("best checkpoint: %s (%s)", checkpoints.best, best)
    if world.is_main and (folder / "results.csv").exists():
        logger.info("report: %s", write_report(folder, options, parameters, world.size))


def write_names(task, options, folder):
    """The options and classes of a run, in a folder that has nothing of another one."""
    set_earlier_run_aside(folder, options.resume or "")
    save_options(options, folder / "config.yaml")
    task.save_names(options, folder)


if __name__ == "__main__":
    run(main)

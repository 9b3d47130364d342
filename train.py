"""Train or fine-tune a classifier of this project or of MindCV.

python train.py --config configs/fastvit/fastvit_t8_digits.yaml --distribute False
mpirun -n 8 python train.py --config configs/fastvit/fastvit_t8_ascend.yaml --data_dir /path/to/imagenet
msrun --worker_num=8 --local_worker_num=8 train.py --config ... --data_dir /path/to/imagenet
"""

import logging
import os
from contextlib import nullcontext

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

from mindcv_models.classification.folders import prepare
from mindcv_models.classification.loader import create_train_loader
from mindcv_models.classification.names import save_class_names
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.classification.validator import build_validation
from mindcv_models.input_size import refused_sizes
from mindcv_models.options import parse_options, save_options
from mindcv_models.process import output_folder, run, set_up
from mindcv_models.training import CheckpointKeeper, Schedule, Trainer, build_network, build_step, networks_of
from mindcv_models.training.report import write_report
from mindcv_models.training.tensorboard import TensorBoard

logger = logging.getLogger("train")


def main():
    options = parse_options(__doc__)
    world = set_up(options)
    folder = output_folder(options.ckpt_save_dir)
    options = prepare(options, world, training=True)
    network = build_network(options, world)
    loader = create_train_loader(options, world.rank, world.size)
    steps = loader.get_dataset_size()
    schedule = Schedule(options, -(-steps // options.gradient_accumulation_steps))
    step = build_step(options, network, schedule, world)
    validate = build_validation(network, options, world) if options.val_while_train else None
    keeper = CheckpointKeeper(folder, options.model, options.ckpt_save_policy, options.keep_checkpoint_max)
    if world.is_main:
        save_options(options, folder / "config.yaml")
        save_class_names(options, folder)

    logger.info(
        "%s: %s parameters, %d classes; %d epochs of %d steps of %d x %d images in %s mode",
        options.model, f"{sum(p.size for p in network.trainable_params()):,}", options.num_classes, options.epoch_size,
        steps, world.size, options.batch_size, ("graph", "PyNative")[options.mode],
    )  # fmt: skip
    size = EvalTransform.resolve(options).size
    with TensorBoard(folder) if options.tensorboard and world.is_main else nullcontext() as watch:
        trainer = Trainer(options, network, step, loader, schedule, validate, keeper, world, watch)
        with refused_sizes(networks_of(options, step), size, options.in_channels):
            best = trainer.run()
    logger.info("last checkpoint: %s", keeper.last)
    if best is not None:
        logger.info("best checkpoint: %s (%s)", keeper.best, best)
    if world.is_main and (folder / "results.csv").exists():
        logger.info("report: %s", write_report(folder, sum(p.size for p in network.trainable_params()), world.size))


if __name__ == "__main__":
    run(main)

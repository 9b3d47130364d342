"""Train or fine-tune a classifier of this project or of MindCV.

python train.py --config configs/fastvit/fastvit_t8_digits.yaml --distribute False
mpirun -n 8 python train.py --config configs/fastvit/fastvit_t8_ascend.yaml --data_dir /path/to/imagenet
msrun --worker_num=8 --local_worker_num=8 train.py --config ... --data_dir /path/to/imagenet
"""

import logging

from mindcv.loss import create_loss
from mindcv.models.registry import get_pretrained_cfg
from mindcv.utils import set_seed
from mindcv.utils.amp import auto_mixed_precision

from mindcv_models import create_model
from mindcv_models.checkpoint import load_weights
from mindcv_models.cli import output_folder, run, set_up
from mindcv_models.config import Options, parse_options, save_options
from mindcv_models.data import create_eval_loader, create_train_loader, prepare
from mindcv_models.distributed import World, broadcast_parameters, join_world
from mindcv_models.evaluation import Evaluator
from mindcv_models.training import (
    EMA,
    CheckpointKeeper,
    LossScale,
    Trainer,
    TrainStep,
    build_optimizer,
    learning_rates,
)

logger = logging.getLogger("train")


def main():
    options = parse_options(__doc__)
    set_up(options)
    world = join_world(options.distribute)
    set_seed(options.seed, world.rank)
    options = prepare(options, world, training=True)
    folder = output_folder(options.ckpt_save_dir)
    network = build_network(options)
    broadcast_parameters(network.get_parameters(), world)
    auto_mixed_precision(network, options.amp_level, options.amp_cast_list)

    loader = create_train_loader(options, world.rank, world.size)
    rates = learning_rates(options, -(-loader.get_dataset_size() // options.gradient_accumulation_steps))
    step = build_step(options, network, rates, world)
    validate = build_validation(options, network, world) if options.val_while_train else None
    keeper = CheckpointKeeper(folder, options.model, options.ckpt_save_policy, options.keep_checkpoint_max)
    if world.is_main:
        save_options(options, folder / "config.yaml")
    announce(options, network, loader, world)
    best = Trainer(options, network, step, loader, rates, validate, keeper, world).run()
    logger.info("last checkpoint: %s", keeper.last)
    if best is not None:
        logger.info("best checkpoint: %s (%s)", keeper.best, best)


def build_network(options: Options):
    network = create_model(
        options.model,
        num_classes=options.num_classes,
        in_channels=options.in_channels,
        pretrained=options.pretrained,
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
    )
    if options.ckpt_path:
        head = get_pretrained_cfg(options.model).get("classifier") if options.new_head else None
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.ema, without=head))
    return network


def build_step(options: Options, network, rates, world: World) -> TrainStep:
    return TrainStep(
        network,
        create_loss(options.loss, None, options.reduction, options.label_smoothing, options.aux_factor),
        build_optimizer(options, network, rates),
        LossScale(options.loss_scale, options.loss_scale_type == "dynamic", options.drop_overflow_update),
        EMA(network, options.ema_decay, options.ema_ramp) if options.ema else None,
        options.clip_value if options.clip_grad else None,
        options.gradient_accumulation_steps,
        world,
    )


def build_validation(options: Options, network, world: World):
    loader, images = create_eval_loader(options, world.rank, world.size)
    evaluator = Evaluator(network, options.num_classes, options.batch_size, world)
    return lambda: evaluator.run(loader, images, options.skip_bad_images)


def announce(options: Options, network, loader, world: World):
    parameters = sum(p.size for p in network.trainable_params())
    logger.info(
        "%s: %s parameters, %d classes; %d steps an epoch of %d x %d images, %d epochs, %s",
        options.model, f"{parameters:,}", options.num_classes, loader.get_dataset_size(), world.size,
        options.batch_size, options.epoch_size, "graph mode" if options.mode == 0 else "PyNative mode",
    )  # fmt: skip


if __name__ == "__main__":
    run(main)

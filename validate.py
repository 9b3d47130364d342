"""Validate a checkpoint: top-1, top-5 and loss, each image counted once.

python validate.py -c configs/fastvit/fastvit_t8_digits.yaml --ckpt_path outputs/fastvit_t8_digits/fastvit_t8_best.ckpt
mpirun -n 8 python validate.py -c ... --data_dir /path/to/imagenet --ckpt_path ... --distribute True
python validate.py -c ... --data_dir /path/to/imagenet --ckpt_path ... --reparam True
"""

import logging

from mindcv.utils.amp import auto_mixed_precision

from mindcv_models import create_model, reparameterize
from mindcv_models.checkpoint import load_weights
from mindcv_models.cli import run, set_up
from mindcv_models.config import parse_options
from mindcv_models.data import EvalTransform, create_eval_loader, prepare
from mindcv_models.distributed import join_world
from mindcv_models.errors import InputError
from mindcv_models.evaluation import Evaluator

logger = logging.getLogger("validate")


def main():
    options = parse_options(__doc__)
    if not options.ckpt_path:
        raise InputError("ckpt_path is missing: give --ckpt_path the checkpoint to validate.")
    set_up(options)
    world = join_world(options.distribute)
    options = prepare(options, world, training=False)
    network = create_model(options.model, num_classes=options.num_classes, in_channels=options.in_channels)
    logger.info("loaded %s", load_weights(network, options.ckpt_path, options.ema))
    if options.reparam:
        network = reparameterize(network)
    auto_mixed_precision(network, options.amp_level, options.amp_cast_list)

    loader, images = create_eval_loader(options, world.rank, world.size)
    logger.info("%s, %s", options.model, EvalTransform.resolve(options))
    metrics = Evaluator(network, options.num_classes, options.batch_size, world).run(
        loader, images, options.skip_bad_images
    )
    logger.info("%s", metrics)


if __name__ == "__main__":
    run(main)

"""Validate a checkpoint: top-1, top-5 and loss, each image counted once.

python validate.py -c configs/fastvit/fastvit_t8_ascend.yaml --data_dir DIR --ckpt_path FILE --distribute False
python validate.py -c ... --data_dir DIR --ckpt_path FILE --distribute False --reparam True
mpirun -n 8 python validate.py -c ... --data_dir DIR --ckpt_path FILE
"""

import logging
import os

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

from mindcv_models import create_model, reparameterize
from mindcv_models.checkpoint import load_weights
from mindcv_models.cli import run, set_up
from mindcv_models.config import parse_options
from mindcv_models.data import EvalTransform, prepare
from mindcv_models.errors import InputError
from mindcv_models.evaluation import build_validation, cast_network

logger = logging.getLogger("validate")


def main():
    options = parse_options(__doc__)
    if not options.ckpt_path:
        raise InputError("ckpt_path is missing: give --ckpt_path the checkpoint to validate.")
    world = set_up(options)
    options = prepare(options, world, training=False)
    network = create_model(
        options.model,
        num_classes=options.num_classes,
        in_channels=options.in_channels,
        **(options.model_kwargs or {}),
    )
    logger.info("loaded %s", load_weights(network, options.ckpt_path, options.ema))
    if options.reparam:
        network = reparameterize(network)
    own = EvalTransform.resolve(options)
    logger.info("%s at %s, crop %g, %s%s", options.model, own.image_resize, own.crop_pct, own.interpolation,
                ", reparameterized" if options.reparam else "")  # fmt: skip
    metrics = build_validation(cast_network(network, options), options, world)()
    logger.info("%s", metrics)


if __name__ == "__main__":
    run(main)

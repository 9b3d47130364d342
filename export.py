"""Export a trained network for other runtimes, by the suffix of --output: ONNX or MINDIR.

python export.py --model fastvit_t8 --ckpt_path outputs/fastvit_t8/fastvit_t8_best.ckpt --output fastvit_t8.onnx
python export.py --model fastvit_t8 --ckpt_path fastvit_t8.safetensors --output fastvit_t8.mindir --batch_size 8
python export.py --model faster_vit_0_any_res --ckpt_path FILE --output faster_vit.onnx --image_resize 576 960

The network is fused first. The file is written aside, reloaded by ONNX Runtime or MindSpore and compared with the
network on photographs and noise; if an output differs by more than 1e-4, nothing is kept and the exit status is 1.
How to prepare images, and the names of the classes, are in the file as JSON under the key "mindcv_models": in an ONNX
file's metadata_props, in a MINDIR's user_info.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

import mindspore as ms
from mindcv.models.registry import get_pretrained_cfg

from mindcv_models import backend, create_model
from mindcv_models.checkpoint import load_weights
from mindcv_models.classification.names import find_class_names
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.errors import InputError
from mindcv_models.export import Preparation, check_format, export
from mindcv_models.input_size import refused_sizes
from mindcv_models.options import check_preparation, option, parse
from mindcv_models.process import run

logger = logging.getLogger("export")


@dataclass
class ExportOptions:
    model: str = option("fastvit_t8", "name of a model of this project or of MindCV", group="Model")
    model_kwargs: Optional[Dict[str, Any]] = option(None, "further options of the model, such as alpha=0.2")
    num_classes: int = option(1000, "classes that the checkpoint was made for")
    in_channels: int = option(3, "channels of the input")
    ckpt_path: str = option("", "the weights: a .ckpt of this project, or an official .safetensors")
    use_ema: bool = option(False, "take the moving averages in the checkpoint")

    output: str = option("", "file to write; .onnx or .mindir says which format", group="File")
    batch_size: Optional[int] = option(None, "images a batch; default: any number")
    reparam: bool = option(True, "fuse the network first (structural reparameterization)")
    class_names: Optional[str] = option(
        None, "a text file with a name a line, or a folder with a folder a class; default: none in the file"
    )

    image_resize: Optional[Tuple[int, ...]] = option(
        None, "image size, or height and width; default: the model's own", group="Images"
    )
    crop_pct: Optional[float] = option(None, "share of the resized image that is kept; default: the model's own")
    crop_mode: Optional[str] = option(
        None,
        "resize the shorter side and crop the middle, or both sides; default: the model's own",
        ("center", "squash"),
    )
    interpolation: Optional[str] = option(
        None, "resizing filter; default: the model's own", ("nearest", "bilinear", "bicubic", "area")
    )
    mean: Optional[Tuple[float, ...]] = option(None, "channel means, 0 to 255; default: the model's own")
    std: Optional[Tuple[float, ...]] = option(None, "channel deviations, 0 to 255; default: the model's own")


def check(options: ExportOptions) -> None:
    """Refuse values that could not work, before anything is built."""
    if not options.ckpt_path:
        raise InputError("ckpt_path is missing: give --ckpt_path the checkpoint to export.")
    check_format(Path(options.output))
    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f"batch_size is {options.batch_size}, but must be at least 1, or None for any.")
    check_preparation(options)


def preparation_of(options: ExportOptions) -> Preparation:
    own = EvalTransform.resolve(options)
    size = options.image_resize or get_pretrained_cfg(options.model).get("input_size", (3, 224, 224))[1:]
    names = None
    if options.class_names:
        names = tuple(find_class_names(options.class_names, Path(options.ckpt_path), options.num_classes))
    return Preparation(
        options.model, (size[0], size[-1]), own.crop_pct, own.crop_mode, own.interpolation, own.mean, own.std, names
    )


def main():
    options = parse(ExportOptions, __doc__)
    check(options)
    ms.set_context(mode=ms.GRAPH_MODE)
    with backend.portable_form():
        network = create_model(options.model, options.num_classes, options.in_channels, **(options.model_kwargs or {}))
        preparation = preparation_of(options)
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.use_ema))
        path = Path(options.output)
        with refused_sizes([(options.model, network)], preparation.image_size, options.in_channels):
            difference = export(network, path, preparation, options.batch_size, options.reparam, options.in_channels)
    logger.info("%s: outputs within %.1e of the network's", path, difference)


if __name__ == "__main__":
    run(main)

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
from typing import Optional

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

import mindspore as ms

from mindcv_models import backend
from mindcv_models.checkpoint import creator, load_weights
from mindcv_models.classification.names import find_class_names
from mindcv_models.classification.options import Preparation as PreparationOptions
from mindcv_models.classification.transforms import EvalTransform
from mindcv_models.export import Preparation, check_format, export
from mindcv_models.input_size import refused_sizes
from mindcv_models.models import config_of
from mindcv_models.options import Weights, option, parse, peek
from mindcv_models.process import run
from mindcv_models.tasks import task_of

logger = logging.getLogger("export")


@dataclass
class ExportOptions(PreparationOptions, Weights):
    """The options of ``export.py``."""

    title = "File"

    num_classes: int = option(1000, "classes that the checkpoint was made for", at_least=1, also=("nb_classes",))
    output: str = option("", "file to write; .onnx or .mindir says which format", path=True)
    batch_size: Optional[int] = option(None, "images per batch; default: any number", at_least=1)
    reparam: bool = option(True, "fuse the network first (structural reparameterization)", also=("reparameterize",))
    class_names: Optional[str] = option(
        None,
        "a text file with a name a line, or a folder with a folder a class; default: the run's, or ImageNet-1K's",
        path=True,
    )

    def check(self) -> None:
        self.require_weights("export")
        check_format(Path(self.output))


def preparation_of(options: ExportOptions) -> Preparation:
    own = EvalTransform.resolve(options)
    size = options.image_resize or config_of(options.model).input_size[1:]
    checkpoint = Path(options.ckpt_path) if options.ckpt_path else None
    names = tuple(find_class_names(options.class_names, checkpoint, options.num_classes))
    return Preparation(
        options.model, (size[0], size[-1]), own.crop_pct, own.crop_mode, own.interpolation, own.mean, own.std, names
    )


def load_network(options: ExportOptions):
    kwargs = {"num_classes": options.num_classes, "in_channels": options.in_channels, **(options.model_kwargs or {})}
    network = creator(options)(**kwargs)
    if options.ckpt_path:
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.averages))
    return network


def main():
    task = task_of(peek("model"))
    if hasattr(task, "export"):  # its files give more than the network's outputs
        task.export(parse(task.export_options, __doc__))
        return
    options = parse(ExportOptions, __doc__)
    ms.set_context(mode=ms.GRAPH_MODE)
    with backend.portable_form():
        network = load_network(options)
        preparation = preparation_of(options)
        path = Path(options.output)
        with refused_sizes([(options.model, network)], preparation.image_size, options.in_channels):
            difference = export(network, path, preparation, options.batch_size, options.reparam, options.in_channels)
    logger.info("%s: outputs within %.1e of the network's", path, difference)


if __name__ == "__main__":
    run(main)

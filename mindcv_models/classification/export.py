"""``export.py`` for classifiers: a file that gives logits, verified before it is kept."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mindspore as ms
from mindspore import nn

from .. import backend
from ..checkpoint import creator, load_weights
from ..export import Preparation, export
from ..export.options import ExportedFile
from ..input_size import explain_size_errors
from ..models.registry import config_of
from ..options import option
from .names import find_class_names
from .options import Preparation as PreparationOptions
from .transforms import EvalTransform

__all__ = ["ExportOptions", "load_network", "run"]

logger = logging.getLogger("export")


@dataclass
class ExportOptions(PreparationOptions, ExportedFile):
    """The options of ``export.py``."""

    title = "File"

    num_classes: int = option(1000, "classes that the checkpoint was made for", at_least=1, also=("nb_classes",))
    class_names: Optional[str] = option(
        None,
        "a text file with a name a line, or a folder with a folder a class; default: the run's, or ImageNet-1K's",
        path=True,
    )


def run(options: ExportOptions) -> None:
    """Export what the options say."""
    ms.set_context(mode=ms.GRAPH_MODE)
    with backend.portable_form():
        network = load_network(options)
        preparation, path = preparation_of(options), Path(options.output)
        with explain_size_errors([(options.model, network)], preparation.image_size, options.in_channels):
            difference = export(network, path, preparation, options.batch_size, options.reparam, options.in_channels)
    logger.info("%s: outputs within %.1e of the network's", path, difference)


def preparation_of(options: ExportOptions) -> Preparation:
    own = EvalTransform.resolve(options)
    size = options.image_resize or config_of(options.model).input_size[1:]
    checkpoint = Path(options.ckpt_path) if options.ckpt_path else None
    names = tuple(find_class_names(options.class_names, checkpoint, options.num_classes))
    return Preparation(
        options.model, (size[0], size[-1]), own.crop_pct, own.crop_mode, own.interpolation, own.mean, own.std, names
    )


def load_network(options: ExportOptions) -> nn.Cell:
    """The network of the options, with its weights."""
    kwargs = {"num_classes": options.num_classes, "in_channels": options.in_channels, **(options.model_kwargs or {})}
    network = creator(options)(**kwargs)
    if options.ckpt_path:
        logger.info("loaded %s", load_weights(network, options.ckpt_path, options.load_ema))
    return network

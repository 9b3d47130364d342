"""``export.py`` for segmenters: logits or classes at the size of the images, verified before the file is kept."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from mindspore import nn, ops

from .. import backend
from ..checkpoint import load_weights
from ..data.class_names import class_names_of
from ..errors import InputError, RunError
from ..export import Preparation, check_format, export, write_network
from ..export.check import batches, example_images, reload, run_network
from ..export.files import atomic_export
from ..export.options import ExportedFile
from ..input_size import explain_size_errors
from ..layers import resize
from ..options import MAX_SIDE, option
from ..reparameterize import reparameterize
from .ade20k_classes import ADE20K_CLASSES
from .options import Head, Prepared
from .validate import build

__all__ = ["ExportOptions", "LabelsDifferError", "export_segmenter", "run"]

logger = logging.getLogger("export")

MARGIN = 1e-3  # by which the logit of an exported class may be below the largest


class LabelsDifferError(RunError):
    """The classes of an exported file differ from those of its network."""


@dataclass
class ExportOptions(Head, Prepared, ExportedFile):
    """The options of ``export.py`` for segmenters."""

    title = "File"

    image_resize: Tuple[int, ...] = option(
        (512, 512), "height and width of the images", at_least=32, at_most=MAX_SIDE, example="512 512"
    )
    argmax: bool = option(False, "the file gives the class of every pixel, rather than logits")
    class_names: Optional[str] = option(
        None, "text file with a name a line; default: the run's, else numbers", path=True
    )

    def check(self) -> None:
        if len(self.image_resize) not in (1, 2):
            raise InputError("image_resize must be one size, or height and width.")


class AtImageSize(nn.Cell):
    """Images ``(B, 3, H, W)`` to logits ``(B, classes, H, W)``, or to classes ``(B, H, W)``, int64.

    Args:
        network: gives logits at a quarter of the size.
    """

    def __init__(self, network: nn.Cell, argmax: bool = False):
        super().__init__(auto_prefix=False)
        self.network = network
        self.argmax = argmax

    def construct(self, images):
        logits = resize(self.network(images), images.shape[2], images.shape[3])
        return ops.argmax(logits, 1) if self.argmax else logits


def run(options: ExportOptions) -> None:
    """Export what the options say."""
    names = class_names_of(options, ADE20K_CLASSES)
    options.num_classes = len(names)
    size = options.image_resize[0], options.image_resize[-1]
    preparation = Preparation(options.model, size, 1.0, "squash", "bilinear", *options.mean_and_std, tuple(names))
    with backend.portable_form():
        network = build(options)
        if options.ckpt_path:
            logger.info("loaded %s", load_weights(network, options.ckpt_path, options.load_ema))
        network = reparameterize(network, inplace=True) if options.reparam else network
        with explain_size_errors([(options.model, network)], size):
            text = export_segmenter(network, Path(options.output), preparation, options.batch_size, options.argmax)
    logger.info("%s: %s", options.output, text)


def export_segmenter(network: nn.Cell, path: Path, preparation: Preparation, batch_size: Optional[int] = None,
                     argmax: bool = False) -> str:  # fmt: skip
    """Write a segmenter as ONNX or MINDIR, and verify the file; a sentence on how it agrees with the network.

    Raises:
        InputError: an unknown format, a primitive that ONNX export does not support, or a folder that is not writable.
        OutputsDifferError, LabelsDifferError: the outputs differ. An earlier file at ``path`` is unchanged.
    """
    if not argmax:
        difference = export(AtImageSize(network), path, preparation, batch_size, reparam=False)
        return f"logits within {difference:.1e} of the network's"
    check_format(path)
    images = example_images(preparation, 3)
    (logits,) = run_network(AtImageSize(network), images)
    with atomic_export(path) as partial:
        shape = (batch_size, *images.shape[1:])
        write_network(AtImageSize(network, argmax=True), shape, partial, preparation.metadata())
        other = pixels_that_differ(partial, images, logits, batch_size)
    return f"classes are the network's, but at {other} pixels, where the two largest logits are as good as equal"


def pixels_that_differ(path: Path, images: np.ndarray, logits: np.ndarray, batch_size: Optional[int]) -> int:
    """At how many pixels the classes of a file are not the largest of ``logits (B, classes, H, W)``.

    Raises:
        LabelsDifferError: at one of them its class's logit is more than ``MARGIN`` below the largest.
    """
    run_file, count = reload(path), 0
    for index in batches(len(images), batch_size):
        (labels,) = run_file(images[index])
        largest, own = logits[index].max(1), np.take_along_axis(logits[index], labels[:, None].astype(int), 1)[:, 0]
        if not (largest - own).max() <= MARGIN:
            raise LabelsDifferError(
                f"a class of the exported file has a logit {(largest - own).max():.2g} below the largest: no file was "
                "kept; report the versions of mindspore, onnx and onnxruntime."
            )
        count += int((own < largest).sum())
    return count

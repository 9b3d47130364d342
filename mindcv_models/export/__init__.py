"""Networks as files for other runtimes: MINDIR and ONNX.

A network is compiled to MindSpore's graph (``mindir``). For ONNX that is translated primitive by primitive
(``operators``) and simplified (``simplify``). The file is written aside, reloaded, compared with the network
(``check``) and swapped in (``files``).
"""

import gc
import importlib.util
from pathlib import Path
from typing import Optional

from mindspore import nn

from ..errors import InputError
from ..graph import METADATA_KEY, capture
from ..reparameterize import reparameterize
from .check import LogitsDifferError, agreement, example_images, run_network
from .files import aside, write_mindir_file, write_onnx_file
from .operators import translate
from .preparation import Preparation
from .simplify import simplify

__all__ = ["METADATA_KEY", "LogitsDifferError", "Preparation", "check_format", "export", "to_onnx"]

FORMATS = (".onnx", ".mindir")


def export(
    network: nn.Cell,
    path: Path,
    preparation: Preparation,
    batch_size: Optional[int] = None,
    reparam: bool = True,
    channels: int = 3,
) -> float:
    """Write a classifier as ONNX or MINDIR, by the suffix of ``path``, and see that the file computes the same.

    Build the network within ``backend.portable_form()``. The file takes images ``(B, channels, H, W)`` and gives
    logits ``(B, classes)``.

    Args:
        batch_size: the one that the file takes, or None for any.
        reparam: export the inference form; it is compared with the logits of ``network`` as it is.

    Returns:
        The largest difference of the file's logits from the network's, on photographs and on noise.

    Raises:
        InputError: no such format, no ONNX installed, a primitive that it lacks, no classifier, or a folder that
            cannot be written to or has no room.
        LogitsDifferError: the file computes something else. A file that was there before is left as it was.
    """
    check_format(path)
    with aside(path) as partial:
        images = example_images(preparation, channels)
        logits = run_network(network, images)
        shape = (batch_size, *images.shape[1:])
        _write(reparameterize(network) if reparam else network, shape, partial, preparation.metadata())
        gc.collect()  # the fused copy, whose cells refer to each other: the largest takes 5 GB
        return agreement(partial, images, logits, batch_size)


def _write(network, shape, path, metadata):
    if path.suffix == ".onnx":
        write_onnx_file(to_onnx(network, shape), path, metadata)
    else:
        write_mindir_file(network, shape, path, metadata)


def check_format(path: Path) -> None:
    """Raise InputError unless ``path`` names a format that this installation can write."""
    if path.suffix not in FORMATS:
        raise InputError(f"output is {path}, but must end in .onnx or .mindir, which says what to write.")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise InputError(
            f"export to ONNX needs {' and '.join(missing)}: run `pip install -r requirements-export.txt`, or choose "
            "an output that ends in .mindir."
        )


def to_onnx(network: nn.Cell, shape):
    """The simplified :class:`~graph.OnnxGraph` of a network for images of ``shape``, None for an open batch."""
    graph = translate(capture(network, shape), {name: p.asnumpy() for name, p in network.parameters_dict().items()})
    simplify(graph)
    return graph

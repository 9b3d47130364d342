"""Export of networks for other runtimes: MINDIR and ONNX.

A network is compiled to MindSpore's graph (:mod:`mindcv_models.graph`). For ONNX the graph is translated primitive by
primitive (``operators``) and simplified (``simplify``). The file is written to a temporary folder, reloaded, compared
with the network (``check``), and only then replaces an earlier one (``files``).
"""

import gc
import importlib.util
from pathlib import Path
from typing import Optional

from mindspore import nn

from ..errors import InputError
from ..graph import METADATA_KEY, capture
from ..reparameterize import reparameterize
from .check import OutputsDifferError, agreement, example_images, run_network
from .files import atomic_export, write_mindir_file, write_onnx_file
from .operators import translate
from .preparation import Preparation
from .simplify import simplify

__all__ = ["METADATA_KEY", "OutputsDifferError", "Preparation", "check_format", "export", "to_onnx", "write_network"]

FORMATS = (".onnx", ".mindir")


def export(
    network: nn.Cell,
    path: Path,
    preparation: Preparation,
    batch_size: Optional[int] = None,
    reparam: bool = True,
    channels: int = 3,
) -> float:
    """Write a network as ONNX or MINDIR, by the suffix of ``path``, and verify that the file gives the same outputs.

    Build the network within ``backend.portable_form()``. The file maps images ``(B, channels, H, W)`` to the network's
    outputs, such as the logits ``(B, classes)`` of a classifier; a tuple of tensors, nested or not, becomes several.

    Args:
        batch_size: the fixed batch size of the file, or None for a dynamic one.
        reparam: export the inference form; it is compared with the training form.

    Returns:
        The largest difference between the outputs of the file and of the network, on photographs and on noise.

    Raises:
        InputError: an unknown format, ONNX is not installed, a primitive that ONNX export does not support, or
            a folder that is not writable or full.
        OutputsDifferError: the outputs differ. An earlier file at ``path`` is unchanged.
    """
    check_format(path)
    with atomic_export(path) as partial:
        images = example_images(preparation, channels)
        outputs = run_network(network, images)
        shape = (batch_size, *images.shape[1:])
        write_network(reparameterize(network) if reparam else network, shape, partial, preparation.metadata())
        gc.collect()  # the fused copy, a reference cycle of up to 5 GB
        return agreement(partial, images, outputs, batch_size)


def write_network(network: nn.Cell, shape, path: Path, metadata) -> None:
    """Write a network for images of ``shape``, None for a dynamic batch, without verifying the file."""
    if path.suffix == ".onnx":
        write_onnx_file(to_onnx(network, shape), path, metadata)
    else:
        write_mindir_file(network, shape, path, metadata)


def check_format(path: Path) -> None:
    """Raise InputError unless ``path`` names a format that this installation can write."""
    if path.suffix not in FORMATS:
        raise InputError(f"output is {path}, but must end in .onnx or .mindir, which selects the format.")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise InputError(
            f"export to ONNX needs {' and '.join(missing)}: run `pip install -r requirements-export.txt`, or choose "
            "an output that ends in .mindir."
        )


def to_onnx(network: nn.Cell, shape):
    """The simplified :class:`~graph.OnnxGraph` of a network for images of ``shape``, None for a dynamic batch."""
    graph = translate(capture(network, shape), {name: p.asnumpy() for name, p in network.parameters_dict().items()})
    simplify(graph)
    return graph

"""Weights into networks from files of every kind, strictly, and this project's own files written atomically."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Mapping, Optional, Tuple, TypeVar

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from ..errors import InputError
from ..files import atomic_write, require_file
from .fit import LoadReport, find_prefix, fit_state_dict, under_prefix
from .mindspore_file import is_ckpt, read_ckpt
from .names import official_names, own_names
from .state_dict import open_state_dict
from .tensors import FileTensor
from .torch_weights import Cells, as_cells, fill

__all__ = ["EMA_PREFIX", "choose_averages", "load_backbone", "load_weights", "save_checkpoint"]

EMA_PREFIX = "ema."
T = TypeVar("T")


def save_checkpoint(parameters: Iterable[Parameter], path: Path) -> None:
    """Write parameters by name to ``path`` atomically; ``mindspore.save_checkpoint`` alone deletes the old file first.

    A checksum follows them, which every reader here verifies; MindSpore's does so with ``crc_check``.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(path) as partial:
        written = partial.with_suffix(".ckpt")  # MindSpore writes no other ending
        values = [{"name": p.name, "data": Tensor(p.asnumpy())} for p in parameters]
        ms.save_checkpoint(values, str(written), crc_check=True)
        written.chmod(0o644)
        os.replace(written, partial)


def load_weights(network: nn.Cell, path: str, use_ema: Optional[bool] = False, without: Cells = None) -> str:
    """Fill ``network`` from ``path``: a ``.ckpt`` file of this project, or a PyTorch checkpoint of any kind.

    A ``.safetensors`` file has the official names, a ``.ckpt`` file this project's. They may lie under a prefix in
    the file, such as ``backbone.``; what lies elsewhere is left out.

    Args:
        use_ema: load the moving averages instead of the weights; None: load those that a ``.ckpt`` file has, and the
            weights where it has none, and of a PyTorch checkpoint.
        without: a cell, or several, such as a new classifier, to leave out on both sides.

    Returns:
        A description of what was loaded, for the log.

    Raises:
        InputError: no such file, not a checkpoint, or a name or shape does not fit; then nothing is changed.
    """
    cells = as_cells(without)
    checkpoint = _open(path, use_ema)
    return checkpoint.describe(checkpoint.load(network, cells, cells))


def load_backbone(backbone: nn.Cell, path: str, use_ema: Optional[bool] = False) -> LoadReport:
    """Fill the backbone of a detector or segmenter from a classifier's file of any kind, or from another detector's.

    Every parameter of the backbone must be in the file, with its shape. Two things differ between a backbone and a
    classifier, and the report names both: cells that only the classifier has (its head, its last norm) are left out,
    and the norms of the maps that only the backbone has (``backbone.output_norms``) keep their initial values where
    the file has none.

    Args:
        backbone: the cell itself, such as ``network.backbone``. It may name cells of the classifier that it lacks in
            ``classifier_cells``, if they are parts of cells that it has.
        use_ema: as in :func:`load_weights`.

    Raises:
        InputError: as in :func:`load_weights`.
    """
    checkpoint = _open(path, use_ema, "train it first, as the recipe's header says, or set backbone_path to another")
    prefix = find_prefix(backbone, checkpoint.tensors, checkpoint.torch, path)
    inside = under_prefix(checkpoint.tensors, prefix)
    given = {name.partition(".")[0] for name in (official_names(inside).values() if checkpoint.torch else inside)}
    own = {name.partition(".")[0] for name in own_names(backbone).values()}
    fresh = [norm for norm in getattr(backbone, "output_norms", ()) if norm not in given]
    return checkpoint.load(backbone, (*(given - own), *getattr(backbone, "classifier_cells", ())), fresh)


@dataclass(frozen=True)
class _Checkpoint:
    """The tensors of a file by name; ``torch`` is true for PyTorch's names."""

    path: str
    tensors: Mapping[str, FileTensor]
    torch: bool
    left_out: Tuple[str, ...] = ()
    averaged: bool = False

    def load(self, network, without, fresh) -> LoadReport:
        fit = fit_state_dict(network, self.tensors, without, fresh, self.left_out, self.torch, self.path)
        fill(network, self.tensors, fit.sources)
        return fit.report

    def describe(self, report: LoadReport) -> str:
        if self.torch:
            return f"the PyTorch checkpoint {self.path}: {report}"
        count, *rest = str(report).split("; ")
        averages = " (moving averages)" if self.averaged else ""
        return "; ".join([f"{count.replace(' loaded', averages)} of {self.path}", *rest])


def _open(
    path: str, use_ema: Optional[bool], advice: str = "give an existing .ckpt, .pth or .safetensors file"
) -> _Checkpoint:
    require_file(path, "checkpoint", advice)
    if not is_ckpt(path):
        state = open_state_dict(path, bool(use_ema))
        return _Checkpoint(path, state.tensors, True, state.left_out)
    values = read_ckpt(path)
    averaged = any(name.startswith(EMA_PREFIX) for name in values) if use_ema is None else use_ema
    return _Checkpoint(path, choose_averages(path, values, averaged), False, averaged=averaged)


def choose_averages(path: str, values: Dict[str, T], use_ema: bool) -> Dict[str, T]:
    """The weights of a ``.ckpt`` file of this project, or their moving averages under the weights' names.

    Raises:
        InputError: it has no averages.
    """
    averages = {name[len(EMA_PREFIX) :]: value for name, value in values.items() if name.startswith(EMA_PREFIX)}
    if use_ema and not averages:
        raise InputError(f"{path} has no moving averages: leave --use_ema out.")
    if use_ema:
        return averages
    return {name: value for name, value in values.items() if not name.startswith(EMA_PREFIX)}

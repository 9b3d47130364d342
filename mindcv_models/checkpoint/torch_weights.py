"""PyTorch state dicts into networks, strictly."""

from typing import Any, Mapping, Sequence, Tuple, Union

import numpy as np
from mindspore import Tensor, nn

from .fit import LoadReport, fit_state_dict, outputs_of
from .state_dict import open_state_dict

__all__ = ["Cells", "as_cells", "fill", "load_torch_checkpoint", "load_torch_state_dict"]


Cells = Union[None, str, Sequence[str]]  # names of cells


def as_cells(cells: Cells) -> Tuple[str, ...]:
    """One name, several or None as a tuple."""
    return (cells,) if isinstance(cells, str) else tuple(cells or ())


def load_torch_checkpoint(
    network: nn.Cell, path: str, without: Cells = None, use_ema: bool = False, keep_if_equal: bool = False
) -> LoadReport:
    """Fill ``network`` from an official or timm checkpoint: a file of ``torch.save`` or safetensors.

    PyTorch is not needed, and no code in the file is executed. Every parameter must be in the file and every entry of
    the file must be a parameter of the network, with its shape; otherwise nothing is changed. The network may lie
    under a prefix there, such as ``backbone.``; what lies elsewhere is left out, and the report says so. For an
    inference-form file, give the network that ``reparameterize`` returns.

    Args:
        without: a cell, or several, such as a new classifier, to leave out on both sides.
        use_ema: take the moving averages that the file holds beside the weights.
        keep_if_equal: leave ``without`` out only if it has another number of classes in the file.

    Raises:
        InputError: the file cannot be read, or a name or shape does not fit.
    """
    state = open_state_dict(path, use_ema)
    cells = as_cells(without)
    if (
        keep_if_equal
        and cells
        and outputs_of(state.tensors, cells[0]) == outputs_of(network.parameters_dict(), cells[0])
    ):
        cells = ()
    return load_torch_state_dict(network, state.tensors, cells, state.left_out, path)


def load_torch_state_dict(
    network: nn.Cell,
    tensors: Mapping[str, Any],
    without: Sequence[str] = (),
    left_out: Sequence[str] = (),
    source: str = "the checkpoint",
) -> LoadReport:
    """As :func:`load_torch_checkpoint`, from arrays by their PyTorch name.

    Raises:
        InputError: a name or shape does not fit.
    """
    fit = fit_state_dict(network, tensors, without, without, left_out, source=source)
    fill(network, tensors, fit.sources)
    return fit.report


def fill(network: nn.Cell, tensors: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Give each parameter the value of its source, read one at a time."""
    parameters = network.parameters_dict()
    for name, source in sources.items():
        parameters[name].set_data(Tensor(np.asarray(tensors[source], order="C"), parameters[name].dtype))

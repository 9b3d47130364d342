"""Changes of a built network: values of its parameters, its child cells, its precision."""

import re
from typing import Callable, List, Optional

import numpy as np
from mindcv.utils.amp import auto_mixed_precision
from mindspore import Parameter, Tensor, nn, ops

from .errors import InputError, shown

__all__ = ["cast_network", "is_running_statistic", "replace_cells", "running_statistics", "set_value"]


def set_value(parameter: Parameter, value: np.ndarray) -> None:
    """Give ``parameter`` the value of an array of its shape, in place.

    ``Parameter.set_data`` gives it other memory. MindSpore 2.8's compiled graphs do not notice that where they use a
    parameter in an ``if`` only, as a step does that accumulates gradients or scales the loss dynamically: what they
    write there from then on is lost.
    """
    ops.assign(parameter, Tensor(value, parameter.dtype))


def replace_cells(cell: nn.Cell, replacement: Callable[[nn.Cell], Optional[nn.Cell]]) -> nn.Cell:
    """Replace cells in place, from the outside in; what is below a replaced cell is not visited.

    Args:
        replacement: a cell to the one to put in its place, or None to leave it.

    Returns:
        ``cell``, or its own replacement.
    """
    replaced = replacement(cell)
    if replaced is not None:
        return replaced
    for name, child in list(cell.name_cells().items()):
        new = replace_cells(child, replacement)
        if new is child:
            continue
        if isinstance(cell, (nn.SequentialCell, nn.CellList)):
            cell[int(name)] = new
        else:
            setattr(cell, name, new)
    return cell


def is_running_statistic(name: str) -> bool:
    """Whether a parameter of this name is a running mean or variance of batch normalisation, or an average of one."""
    return name.rpartition(".")[2] in ("moving_mean", "moving_variance")


def running_statistics(network: nn.Cell) -> List[Parameter]:
    """The running means and variances of the network's batch normalisation."""
    return [parameter for parameter in network.get_parameters() if is_running_statistic(parameter.name)]


def _is_cell(name: str) -> bool:
    kind = getattr(nn, name, None)
    return isinstance(kind, type) and issubclass(kind, nn.Cell)


def cast_network(network: nn.Cell, amp_level: str = "O0", amp_cast_list: Optional[str] = None) -> nn.Cell:
    """The network in mixed precision, changed in place.

    A cell that has ``keeps_float32`` gets its inputs in float32 whatever the level, such as coordinates, which float16
    rounds to whole pixels; the cells within it are cast like all others.

    Args:
        amp_level: MindCV's levels: ``"O0"`` float32 to ``"O3"`` float16.
        amp_cast_list: cells to cast with O1, or to keep with O2, such as ``"[nn.Dense, nn.Conv2d]"``.

    Raises:
        InputError: ``amp_cast_list`` names something else than cells.
    """
    cells = amp_cast_list
    if cells is not None:
        names = re.findall(r"\bnn\.(\w+)", cells)  # MindCV evaluates the text, so it gets nothing but these
        if re.sub(r"\bnn\.\w+|[\s,\[\]()]", "", cells) or not all(_is_cell(name) for name in names):
            raise InputError(f"amp_cast_list is {shown(cells)}, but must be cells, such as '[nn.Dense, nn.Conv2d]'.")
        cells = f"[{', '.join(f'nn.{name}' for name in names)}]"
    auto_mixed_precision(network, amp_level, cells)
    if amp_level in ("O2", "O3"):
        for _, cell in network.cells_and_names():
            if getattr(cell, "keeps_float32", False):
                cell.add_flags(fp16=False, fp32=True)
    return network

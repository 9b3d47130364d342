"""Structural reparameterization of a built network."""

import copy

from mindspore import nn

__all__ = ["reparameterize"]


def reparameterize(network: nn.Cell) -> nn.Cell:
    """The inference form of ``network``: a new network that computes the same function in evaluation mode.

    Every cell with a ``fuse()`` method is replaced by what that returns; parameters keep or get the names that the
    official inference-form checkpoints use. ``network`` itself is left as it is. A network with nothing to fuse, an
    already fused one included, comes back as a copy.
    """
    fused = copy.deepcopy(network)
    fused.compile_cache.clear()
    fused = _fuse(fused)
    for name, parameter in fused.parameters_and_names():
        parameter.name = name
    return fused.set_train(False)


def _fuse(cell: nn.Cell) -> nn.Cell:
    if hasattr(cell, "fuse"):
        return cell.fuse()
    for name, child in cell.name_cells().items():
        replacement = _fuse(child)
        if replacement is child:
            continue
        if isinstance(cell, (nn.SequentialCell, nn.CellList)):
            cell[int(name)] = replacement
        else:
            setattr(cell, name, replacement)
    return cell

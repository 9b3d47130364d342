"""Structural reparameterization of a built network."""

import copy

from mindspore import nn

from .cells import replace_cells

__all__ = ["reparameterize"]


def reparameterize(network: nn.Cell, inplace: bool = False) -> nn.Cell:
    """The inference form of ``network``, which computes the same function in evaluation mode.

    Every cell with a ``fuse()`` method is replaced by what that returns; parameters keep or get the names that the
    official inference-form checkpoints use. A network with nothing to fuse, an already fused one included, comes back
    as it is, or as a copy.

    Args:
        inplace: change ``network`` itself, rather than a copy, which takes as much memory again.
    """
    fused = network if inplace else copy.deepcopy(network)
    fused.compile_cache.clear()
    fused = replace_cells(fused, lambda cell: cell.fuse() if hasattr(cell, "fuse") else None)
    for name, parameter in fused.parameters_and_names():
        parameter.name = name
    return fused.set_train(False)

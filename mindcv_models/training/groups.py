"""Which parameters learn, how fast, and which of them decay."""

import fnmatch
import math
import re
from dataclasses import dataclass
from typing import Dict, List, Sequence

from mindspore import Parameter, nn

from ..errors import InputError, nearest
from ..options import RunOptions

__all__ = ["Group", "freeze", "layer_of_parameters", "parameter_groups"]

# The part of a parameter's name that says in which layer it is, for MindCV's models: "layers.1.blocks.0" of Swin,
# "layer3.5" of ResNet.
_LAYER = re.compile(r"\w+(\.\d+)*(\.(blocks|layers)\.\d+)*")

# What each weight_decay_filter spares, by parts of names. "auto" is MindSpore's own choice.
_SPARED = {"disable": (), "auto": ("gamma", "beta"), "norm_and_bias": ("gamma", "beta", "bias")}


@dataclass
class Group:
    """Parameters with one learning rate and one weight decay.

    Attributes:
        peak: factor on the peak of the learning rate.
        scale: factor on every learning rate.
    """

    parameters: List[Parameter]
    peak: float
    scale: float
    weight_decay: float


def freeze(network: nn.Cell, patterns: Sequence[str], learning: Sequence[str] = ()) -> int:
    """Stop the parameters that match shell-style ``patterns`` from learning; how many they are.

    Batch normalisation whose parameters are all frozen keeps its statistics too, and normalises by them.

    Args:
        learning: names of the only cells that learn, such as the classifier; empty leaves it to the patterns.

    Raises:
        InputError: a pattern matches no parameter, or nothing is left to train.
    """
    names = [parameter.name for parameter in network.trainable_params()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            hint = nearest(pattern, [*names, *(name.rpartition(".")[0] + ".*" for name in names)], f"try {names[0]}.")
            raise InputError(f"freeze {pattern!r} matches no parameter that learns: {hint}")
    frozen = set()
    for parameter in network.trainable_params():
        outside = bool(learning) and not parameter.name.startswith(tuple(f"{cell}." for cell in learning))
        if outside or any(fnmatch.fnmatchcase(parameter.name, pattern) for pattern in patterns):
            parameter.requires_grad = False
            frozen.add(parameter.name)
    if len(frozen) == len(names):
        raise InputError("freeze leaves nothing to train: match fewer parameters.")
    for _, cell in network.cells_and_names():
        own = {parameter.name: parameter.requires_grad for parameter in cell.get_parameters(expand=False)}
        if hasattr(cell, "use_batch_statistics") and frozen & own.keys() and not any(own.values()):
            cell.use_batch_statistics = False
    return len(frozen)


def layer_of_parameters(network: nn.Cell) -> Dict[str, int]:
    """The layer of every parameter by name, counted from the images.

    A network says itself what its layers are (``layer_groups()``, names of the cells of each); those of others follow
    from the names of their parameters. Of a network with a ``backbone`` those count, and all else is one last layer.
    """
    backbone = getattr(network, "backbone", None)
    layers = _layers_within(network if backbone is None else backbone)
    if backbone is None:
        return layers
    last = max(layers.values()) + 1
    return {parameter.name: layers.get(parameter.name, last) for parameter in network.get_parameters()}


def _layers_within(cell) -> Dict[str, int]:
    """The layers of a cell's parameters; cells that are in no group of its ``layer_groups()`` come after the last."""
    names = {parameter.name: name for name, parameter in cell.parameters_and_names()}
    if not hasattr(cell, "layer_groups"):
        layers = {}
        return {full: layers.setdefault(_LAYER.match(name).group(), len(layers)) for full, name in names.items()}
    groups = cell.layer_groups()
    depth = {f"{cell_name}.": number for number, group in enumerate(groups) for cell_name in group}
    return {
        full: next((number for prefix, number in depth.items() if name.startswith(prefix)), len(groups))
        for full, name in names.items()
    }


def parameter_groups(options: RunOptions, network: nn.Cell) -> List[Group]:
    """The network's trainable parameters, grouped by learning rate and weight decay.

    A network may say ``no_weight_decay()``, names that weight decay spares when it spares norms and biases, and
    ``lr_scale()``, factors on the peak of the learning rate by shell-style pattern of names.
    """
    layers = layer_of_parameters(network)
    last = max(layers.values())
    peaks = network.lr_scale() if hasattr(network, "lr_scale") else {}
    spares = options.weight_decay_filter == "norm_and_bias"
    spared = set(network.no_weight_decay()) if spares and hasattr(network, "no_weight_decay") else set()
    groups = {}
    for parameter in network.trainable_params():
        name = parameter.name
        is_spared = name in spared or any(word in name for word in _SPARED[options.weight_decay_filter])
        peak = math.prod(factor for pattern, factor in peaks.items() if fnmatch.fnmatchcase(name, pattern))
        scale = 1.0 if options.layer_decay is None else options.layer_decay ** (last - layers[name])
        key = (peak, scale, 0.0 if is_spared else options.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [Group(members, *key) for key, members in groups.items()]

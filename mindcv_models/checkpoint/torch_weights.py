"""PyTorch state dicts into MindSpore networks, strictly."""

import os
from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np
from mindspore import Tensor, nn
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..errors import InputError
from .names import is_counter, official_names, torch_names

__all__ = ["LoadReport", "load_torch_checkpoint", "load_torch_state_dict"]


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict: the number of parameters filled, and the entries dropped by rule."""

    loaded: int
    dropped: Tuple[str, ...]


def load_torch_checkpoint(network: nn.Cell, path: str) -> LoadReport:
    """Fill ``network`` from an official or timm state dict in a safetensors file.

    Every parameter must be in the file and every entry of the file must be a parameter of the network, with its
    shape; otherwise nothing is changed. For an inference-form file, give the network that ``reparameterize`` returns.

    Raises:
        InputError: the file cannot be read, or a name or shape does not fit.
    """
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}: give the path of a .safetensors file.")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}): export the state dict again.") from error
    try:
        return load_torch_state_dict(network, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_torch_state_dict(network: nn.Cell, tensors: Dict[str, np.ndarray]) -> LoadReport:
    """As :func:`load_torch_checkpoint`, from arrays by their PyTorch name."""
    renamed = official_names(tensors)
    given = {official: name for name, official in renamed.items() if not is_counter(official)}
    wanted = {official: name for name, official in torch_names(network).items()}
    _check_names(given, wanted)
    parameters = network.parameters_dict()
    for official, name in wanted.items():
        shape = tuple(tensors[given[official]].shape)
        if shape != tuple(parameters[name].shape):
            hint = " Build the network with the checkpoint's num_classes." if official.startswith("head.") else ""
            raise InputError(
                f"{given[official]} has shape {shape}, but this network needs {tuple(parameters[name].shape)}: "
                f"is it another variant's checkpoint?{hint}"
            )
    for official, name in wanted.items():
        parameter = parameters[name]
        parameter.set_data(Tensor(np.ascontiguousarray(tensors[given[official]]), parameter.dtype))
    return LoadReport(len(wanted), tuple(sorted(set(tensors) - set(given.values()))))


def _check_names(given, wanted):
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} parameters are not in it, {missing[0]} first")
    if unknown:
        parts.append(f"{len(unknown)} of its entries are not in this network, {unknown[0]} first")
    fused = [any("reparam" in name for name in names) for names in (given, wanted)]
    hint = "use the variant it was made for"
    if fused == [True, False]:
        hint = "it holds the inference form, so load it into reparameterize(network)"
    elif fused == [False, True]:
        hint = "it holds the training form, so load it first and reparameterize the network after"
    raise InputError(f"the checkpoint does not fit: {'; '.join(parts)}; {hint}.")

"""PyTorch state dicts into MindSpore networks, strictly."""

import os
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np
from mindspore import Tensor, nn
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..errors import InputError
from .names import is_counter, is_derived, official_names, torch_names

__all__ = ["LoadReport", "load_torch_checkpoint", "load_torch_state_dict"]


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict: the number of parameters filled, and the entries dropped by rule.

    Of those dropped, ``recomputed`` names the tables that the network computes from its own geometry, and ``unused``
    the weights that its resolution has no use for.
    """

    loaded: int
    dropped: Tuple[str, ...]
    recomputed: Tuple[str, ...] = ()
    unused: Tuple[str, ...] = ()

    def __str__(self):
        return (
            f"{self.loaded} parameters carried over, {len(self.recomputed)} tables recomputed for this geometry, "
            f"{len(self.unused)} weights unused at this resolution{': ' * bool(self.unused)}{', '.join(self.unused)}"
        )


def load_torch_checkpoint(network: nn.Cell, path: str, without: Optional[str] = None) -> LoadReport:
    """Fill ``network`` from an official or timm state dict in a safetensors file.

    Every parameter must be in the file and every entry of the file must be a parameter of the network, with its
    shape; otherwise nothing is changed. For an inference-form file, give the network that ``reparameterize`` returns.
    The parameters of the cell named ``without``, a new classifier, say, are left out on both sides.

    Raises:
        InputError: the file cannot be read, or a name or shape does not fit.
    """
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}: give the path of a .safetensors file.")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): export the state dict again."
        ) from error
    try:
        return load_torch_state_dict(network, tensors, without)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_torch_state_dict(
    network: nn.Cell, tensors: Dict[str, np.ndarray], without: Optional[str] = None
) -> LoadReport:
    """As :func:`load_torch_checkpoint`, from arrays by their PyTorch name."""
    renamed = official_names(tensors)
    left_out = (f"{without}.",) if without else ()
    wanted = {o: name for name, o in torch_names(network).items() if not o.startswith(left_out)}
    recomputed = [name for name, o in renamed.items() if is_derived(o)]
    ignores = getattr(network, "ignores", lambda official: False)
    unused = [name for name, o in renamed.items() if o not in wanted and not is_derived(o) and ignores(o)]
    skipped = {*recomputed, *unused}
    given = {
        o: name for name, o in renamed.items()
        if name not in skipped and not is_counter(o) and not o.startswith(left_out)
    }  # fmt: skip
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
    dropped = sorted(set(tensors) - set(given.values()))
    return LoadReport(len(wanted), tuple(dropped), tuple(sorted(recomputed)), tuple(sorted(unused)))


def _check_names(given, wanted):
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} parameters are not in it, {missing[0]} first")
    if unknown:
        parts.append(f"{len(unknown)} of its entries are not in this network, {unknown[0]} first")
    fused = [any("reparam" in name or is_derived(name) for name in names) for names in (given, wanted)]
    hint = "use the variant it was made for"
    if fused == [True, False]:
        hint = "it holds the inference form, so load it into reparameterize(network)"
    elif fused == [False, True]:
        hint = "it holds the training form, so load it first and reparameterize the network after"
    raise InputError(f"the checkpoint does not fit: {'; '.join(parts)}; {hint}.")

"""This project's own checkpoint files: MindSpore's format, written aside and swapped in, read strictly."""

import os
from pathlib import Path
from typing import Dict, Iterable, Optional, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from ..errors import InputError
from .mindspore_file import is_ckpt, read_ckpt
from .torch_weights import load_torch_checkpoint

__all__ = ["EMA_PREFIX", "load_weights", "save_checkpoint"]

EMA_PREFIX = "ema."
T = TypeVar("T")


def save_checkpoint(parameters: Iterable[Parameter], path: Path) -> None:
    """Write parameters by name to ``path``; a file that is there stays whole until the new one is.

    ``mindspore.save_checkpoint`` deletes the old file first, so this writes beside it and renames.
    """
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial.ckpt")
    try:
        ms.save_checkpoint([{"name": p.name, "data": Tensor(p.asnumpy())} for p in parameters], str(aside))
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.chmod(0o644)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load_weights(network: nn.Cell, path: str, use_ema: Optional[bool] = False, without: Optional[str] = None) -> str:
    """Fill ``network`` from ``path``: a ``.ckpt`` file of this project, or a PyTorch checkpoint of any kind.

    A ``.safetensors`` file holds official names, whoever wrote it; a ``.ckpt`` file of MindSpore's holds the network's.

    Args:
        use_ema: take the moving averages rather than the weights; None takes those that a ``.ckpt`` file has, and the
            weights where it has none, and of a PyTorch checkpoint.
        without: leave out the parameters of this cell (a new classifier, say).

    Returns:
        What was loaded, in words.

    Raises:
        InputError: no such file, not a checkpoint, or a name or shape that does not fit; nothing is changed then.
    """
    if not os.path.isfile(path):
        raise InputError(f"no checkpoint at {path}: set ckpt_path to an existing .ckpt, .pth or .safetensors file.")
    if not is_ckpt(path):
        report = load_torch_checkpoint(network, path, without, bool(use_ema))
        return f"the PyTorch checkpoint {path}: {report}"
    values = read_ckpt(path)
    averaged = any(name.startswith(EMA_PREFIX) for name in values) if use_ema is None else use_ema
    chosen = choose_averages(path, values, averaged)
    parameters = {
        name: parameter
        for name, parameter in network.parameters_dict().items()
        if without is None or not name.startswith(f"{without}.")
    }
    _check_fit(path, chosen, parameters, without)
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(np.asarray(chosen[name]), parameter.dtype))  # read from the file now, one by one
    return f"{len(parameters)} parameters{' (moving averages)' if averaged else ''} of {path}"


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


def _check_fit(path, values, parameters, without):
    advice = "build the model that it was made for, with its num_classes"
    for name, parameter in parameters.items():
        if name not in values:
            raise InputError(f"{path} does not fit the model: it has no {name}; {advice}.")
        if values[name].shape != tuple(parameter.shape):
            raise InputError(
                f"{path} does not fit the model: {name} is {values[name].shape} there, but must be "
                f"{tuple(parameter.shape)}; {advice}, or train with --new_head True if only the classifier differs."
            )
    unknown = [n for n in values if n not in parameters and not (without and n.startswith(f"{without}."))]
    if unknown:
        raise InputError(f"{path} does not fit the model: the model has no {unknown[0]}; {advice}.")

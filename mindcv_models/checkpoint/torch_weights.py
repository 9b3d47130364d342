"""PyTorch state dicts into MindSpore networks, strictly."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
from mindspore import Tensor, nn

from ..errors import InputError
from .names import is_counter, is_derived, official_names, torch_names
from .state_dict import open_state_dict

__all__ = ["Fit", "LoadReport", "classes_of", "fit_state_dict", "load_torch_checkpoint", "load_torch_state_dict"]


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict: the number of parameters filled, and the entries dropped, by rule.

    Attributes:
        loaded: how many parameters were filled, each from an entry of its own.
        counters: counts of batches, which no network needs.
        recomputed: tables that the network computes from its own geometry.
        unused: weights that its resolution has no use for.
        repeated: second names of weights that have two.
        replaced: weights of the classifier that a new one takes the place of.
        other_parts: entries of a wrapper, or of a detector around the backbone.
        fresh: parameters of the network that keep their first values: the new classifier's.
    """

    loaded: int
    counters: Tuple[str, ...] = ()
    recomputed: Tuple[str, ...] = ()
    unused: Tuple[str, ...] = ()
    repeated: Tuple[str, ...] = ()
    replaced: Tuple[str, ...] = ()
    other_parts: Tuple[str, ...] = ()
    fresh: Tuple[str, ...] = ()

    @property
    def dropped(self) -> Tuple[str, ...]:
        """Every entry that filled no parameter."""
        return tuple(sorted(name for rule in _RULES for name in getattr(self, rule)))

    def __str__(self):
        parts = [f"{self.loaded} parameters carried over"]
        for rule, words in (*_RULES.items(), ("fresh", "parameters of the new classifier begin afresh")):
            names = getattr(self, rule)
            if names:
                parts.append(f"{len(names)} {words}: {_summary(names)}")
        return "; ".join(parts)


_RULES = {
    "counters": "counters of batches dropped",
    "recomputed": "tables recomputed for this geometry",
    "unused": "weights unused at this resolution",
    "repeated": "second names of a weight dropped",
    "replaced": "weights of the old classifier dropped",
    "other_parts": "entries of other parts dropped",
}


def _summary(names) -> str:
    """Names in few words: those that differ in numbers alone become one pattern, with their count."""
    patterns = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    if len(patterns) > 6:
        patterns = Counter(f"*.{name.rpartition('.')[2]}" for name in names)
    return ", ".join(pattern if count == 1 else f"{pattern} ({count})" for pattern, count in sorted(patterns.items()))


@dataclass(frozen=True)
class Fit:
    """How a state dict fills a network: the entry for each of its parameters, by the network's names."""

    sources: Dict[str, str]
    report: LoadReport


def load_torch_checkpoint(
    network: nn.Cell, path: str, without: Optional[str] = None, use_ema: bool = False, keep_if_equal: bool = False
) -> LoadReport:
    """Fill ``network`` from an official or timm checkpoint: a file of ``torch.save`` or safetensors.

    PyTorch is not needed, and nothing in the file is run. Every parameter must be in the file and every entry of the
    file must be a parameter of the network, with its shape; otherwise nothing is changed. For an inference-form file,
    give the network that ``reparameterize`` returns.

    Args:
        without: leave out the parameters of this cell, a new classifier, say, on both sides.
        use_ema: take the moving averages that the file holds beside the weights.
        keep_if_equal: leave ``without`` out only if it has another number of classes in the file.

    Raises:
        InputError: the file cannot be read, or a name or shape does not fit.
    """
    state = open_state_dict(path, use_ema)
    if keep_if_equal and classes_of(state.tensors, without) == classes_of(network.parameters_dict(), without):
        without = None
    try:
        return load_torch_state_dict(network, state.tensors, without, state.left_out)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_torch_state_dict(
    network: nn.Cell, tensors: Mapping[str, Any], without: Optional[str] = None, left_out: Tuple[str, ...] = ()
) -> LoadReport:
    """As :func:`load_torch_checkpoint`, from arrays by their PyTorch name."""
    fit = fit_state_dict(network, tensors, without, left_out)
    parameters = network.parameters_dict()
    for name, source in fit.sources.items():
        parameters[name].set_data(Tensor(np.ascontiguousarray(tensors[source]), parameters[name].dtype))
    return fit.report


def fit_state_dict(
    network: nn.Cell, tensors: Mapping[str, Any], without: Optional[str] = None, left_out: Tuple[str, ...] = ()
) -> Fit:
    """Which entry fills which parameter; the network's values are not looked at.

    Raises:
        InputError: a name or shape does not fit.
    """
    renamed = official_names(tensors)
    outside = (f"{without}.",) if without else ()
    every = torch_names(network)
    wanted = {official: name for name, official in every.items() if not official.startswith(outside)}
    ignores = getattr(network, "ignores", lambda official: False)
    classes = {
        "counters": [name for name, o in renamed.items() if is_counter(o)],
        "recomputed": [name for name, o in renamed.items() if is_derived(o)],
        "unused": [name for name, o in renamed.items() if o not in wanted and not is_derived(o) and ignores(o)],
        "repeated": [name for name in tensors if name not in renamed],
        "replaced": [name for name, o in renamed.items() if o.startswith(outside)] if outside else [],
        "other_parts": left_out,
    }
    dropped = {name for names in classes.values() for name in names}
    kept = {name: official for name, official in renamed.items() if name not in dropped}
    given = {official: name for name, official in kept.items()}
    for name, official in kept.items():
        if given[official] != name:
            raise InputError(f"{name} and {given[official]} are names of one parameter: keep one of the two.")
    _check_names(given, wanted)
    _check_tensors(network, tensors, {name: given[official] for official, name in wanted.items()})
    fresh = [name for name, official in every.items() if official not in wanted]
    report = LoadReport(
        len(wanted), **{rule: tuple(sorted(names)) for rule, names in classes.items()}, fresh=tuple(fresh)
    )
    return Fit({name: given[official] for official, name in wanted.items()}, report)


def classes_of(tensors: Mapping[str, Any], head: Optional[str]) -> int:
    """How many classes the classifier ``head`` has among tensors by name; 0 where there is none."""
    weights = [name for name, official in official_names(tensors).items() if official == f"{head}.weight"]
    return tensors[weights[0]].shape[0] if weights and tensors[weights[0]].shape else 0


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


def _check_tensors(network, tensors, sources):
    for name, parameter in network.parameters_dict().items():
        if name not in sources:
            continue
        source = sources[name]
        shape, wanted = tuple(tensors[source].shape), tuple(parameter.shape)
        if shape != wanted:
            hint = " Use the checkpoint's num_classes, or --new_head True." if name.startswith("head.") else ""
            raise InputError(
                f"{source} has shape {shape}, but this network needs {wanted}: "
                f"is it another variant's checkpoint?{hint}"
            )
        if tensors[source].dtype.kind not in "fiub":
            raise InputError(f"{source} is {tensors[source].dtype}, but a weight must be real: is it a checkpoint?")

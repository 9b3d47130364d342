"""Which tensor of a file fills which parameter of a network, decided by names and shapes alone, strictly."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from mindspore import nn

from ..errors import InputError
from .names import is_counter, is_derived, official_names, own_names, torch_names

__all__ = ["Fit", "LoadReport", "find_prefix", "fit_state_dict", "outputs_of", "under_prefix"]

MAX_PREFIXES = 16  # how many of a file's prefixes are tried


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a state dict: the number of parameters filled, and the names left out, by reason.

    Attributes:
        loaded: number of parameters filled, each from an entry of its own.
        counters: entries that count batches, which no network needs.
        recomputed: entries of tables that the network computes from its own geometry.
        unused: entries that the network does not need at its resolution.
        repeated: second names of weights that have two.
        classifier: entries of the classifier, left out as asked.
        other_parts: entries of a wrapper, or of the model around the network.
        fresh: parameters of the network that keep their initial values.
    """

    loaded: int
    counters: Tuple[str, ...] = ()
    recomputed: Tuple[str, ...] = ()
    unused: Tuple[str, ...] = ()
    repeated: Tuple[str, ...] = ()
    classifier: Tuple[str, ...] = ()
    other_parts: Tuple[str, ...] = ()
    fresh: Tuple[str, ...] = ()

    @property
    def dropped(self) -> Tuple[str, ...]:
        """All entries that filled no parameter."""
        return tuple(sorted(name for rule in _DROPPED for name in getattr(self, rule)))

    def __str__(self):
        parts = [f"{self.loaded} parameters loaded"]
        for rule, words in (*_DROPPED.items(), ("fresh", "parameters keep their initial values")):
            names = getattr(self, rule)
            if names:
                parts.append(f"{len(names)} {words}: {_summary(names)}")
        return "; ".join(parts)


_DROPPED = {
    "counters": "batch counters left out",
    "recomputed": "tables recomputed for this geometry",
    "unused": "weights not needed at this resolution",
    "repeated": "second names of a weight left out",
    "classifier": "weights of the classifier left out",
    "other_parts": "entries of other parts left out",
}


def _summary(names) -> str:
    """A short list of names: those that differ only in numbers become one pattern with a count."""
    patterns = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    if len(patterns) > 6:
        patterns = Counter(f"*.{name.rpartition('.')[2]}" for name in names)
    shown = [pattern if count == 1 else f"{pattern} ({count})" for pattern, count in sorted(patterns.items())]
    return ", ".join([*shown[:6], *([f"{len(shown) - 6} more"] if len(shown) > 6 else [])])


@dataclass(frozen=True)
class Fit:
    """For each parameter of the network, by its name there, the entry of the state dict that fills it."""

    sources: Dict[str, str]
    report: LoadReport


def fit_state_dict(
    network: nn.Cell,
    tensors: Mapping[str, Any],
    without: Sequence[str] = (),
    fresh: Sequence[str] = (),
    left_out: Sequence[str] = (),
    torch: bool = True,
    source: str = "the checkpoint",
) -> Fit:
    """Which entry fills which parameter; values are neither read nor changed.

    Names of the network are relative to it, so it may be a part of a larger one. In the file they may lie under a
    prefix, such as ``backbone.``; what lies elsewhere in the file is left out.

    Args:
        tensors: anything with a shape and a dtype, by name.
        without: cells whose entries are left out.
        fresh: cells whose parameters keep their initial values.
        left_out: names that were left out before; for the report.
        torch: the names are PyTorch's or timm's; False: this project's own.
        source: what to call the state dict in error messages.

    Raises:
        InputError: a parameter has no entry, an entry no parameter, or a shape differs.
    """
    names = torch_names(network) if torch else own_names(network)
    prefix = find_prefix(network, tensors, torch, source)
    inside = under_prefix(tensors, prefix)
    renamed = official_names(inside) if torch else {name: name for name in inside}
    wanted = {given: name for name, given in names.items() if not _within(given, fresh)}
    dropped = _dropped(network, renamed, wanted, without, torch)
    dropped["repeated"] = [name for name in inside if name not in renamed]
    skipped = {name for rule in dropped.values() for name in rule}
    given = {}
    for name, official in renamed.items():
        if name in skipped:
            continue
        if official in given:
            raise InputError(f"{source}: {name} and {given[official]} are names of one parameter: keep one of the two.")
        given[official] = name
    sources = {name: given.get(official, "") for official, name in wanted.items()}
    _check_names(set(given), set(wanted), source)
    _check_tensors(network, inside, sources, source)
    others = (*left_out, *(name for name in tensors if not name.startswith(prefix)))
    report = LoadReport(
        len(wanted), other_parts=tuple(sorted(others)), fresh=tuple(n for n, g in names.items() if g not in wanted),
        **{rule: tuple(sorted(prefix + name for name in found)) for rule, found in dropped.items()},
    )  # fmt: skip
    return Fit({name: prefix + entry for name, entry in sources.items()}, report)


def _within(name: str, cells: Sequence[str]) -> bool:
    return any(name.startswith(f"{cell}.") for cell in cells)


def _dropped(network, renamed, wanted, without, torch) -> Dict[str, List[str]]:
    ignores = getattr(network, "ignores", lambda official: False)
    rules = {"counters": [], "recomputed": [], "unused": [], "classifier": []}
    for name, official in renamed.items():
        if torch and is_counter(official):
            rules["counters"].append(name)
        elif torch and is_derived(official):
            rules["recomputed"].append(name)
        elif _within(official, without):
            rules["classifier"].append(name)
        elif official not in wanted and ignores(official):
            rules["unused"].append(name)
    return rules


def under_prefix(tensors: Mapping[str, Any], prefix: str) -> Dict[str, Any]:
    """The entries whose names begin with ``prefix``, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def find_prefix(network: nn.Cell, tensors: Mapping[str, Any], torch: bool = True, source: str = "the file") -> str:
    """The prefix under which the names of ``network`` lie in a state dict: the one under which most of them fit.

    Raises:
        InputError: the whole network is there under several prefixes.
    """
    shapes = {p.name: tuple(p.shape) for p in network.get_parameters()}
    names = torch_names(network) if torch else own_names(network)
    wanted = {given: shapes[name] for name, given in names.items()}
    counts = Counter(prefix for name in tensors for prefix in _prefixes(name))
    common = [prefix for prefix, count in counts.most_common(MAX_PREFIXES) if 2 * count >= len(wanted)]
    hits = {}
    for prefix in ("", *common):
        inside = under_prefix(tensors, prefix)
        renamed = official_names(inside) if torch else {name: name for name in inside}
        found = {official for name, official in renamed.items() if tuple(inside[name].shape) == wanted.get(official)}
        hits[prefix] = len(found)
    best = [prefix for prefix, count in hits.items() if count == max(hits.values())]
    if "" in best:
        return ""
    if len(best) > 1 and 2 * hits[best[0]] > len(wanted):  # the classifier may be another one
        places = " and ".join(best[:4])
        raise InputError(f"{source} holds this network more than once, under {places}: save one of them alone.")
    return min(best, key=len)


def _prefixes(name: str) -> Iterator[str]:
    """``a.``, ``a.b.``, ... of ``a.b.c``; five at most."""
    end = name.find(".")
    for _ in range(5):
        if end < 0:
            return
        yield name[: end + 1]
        end = name.find(".", end + 1)


def outputs_of(tensors: Mapping[str, Any], head: str) -> int:
    """The number of outputs of the classifier ``head`` in tensors by PyTorch or own name; 0 if it is not there."""
    weights = [name for name, official in official_names(tensors).items() if official == f"{head}.weight"]
    return tensors[weights[0]].shape[0] if weights and tensors[weights[0]].shape else 0


_ADVICE = "build the variant that it was made for, with its num_classes"


def _check_names(given, wanted, source):
    missing, unknown = sorted(wanted - given), sorted(given - wanted)
    if not missing and not unknown:
        return
    parts = []
    if missing:
        parts.append(f"it has no {_first(missing)}")
    if unknown:
        parts.append(f"the model has no {_first(unknown)}")
    fused = [any("reparam" in name or is_derived(name) for name in names) for names in (given, wanted)]
    advice = _ADVICE
    if fused == [True, False]:
        advice = "it holds the inference form, so load it into reparameterize(network)"
    elif fused == [False, True]:
        advice = "it holds the training form, so load it first and reparameterize the network after"
    raise InputError(f"{source} does not fit the model: {'; '.join(parts)}; {advice}.")


def _first(names) -> str:
    return names[0][:100] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _check_tensors(network, tensors, sources, source):
    for name, parameter in network.parameters_dict().items():
        if name not in sources:
            continue
        entry = sources[name]
        shape, wanted = tuple(tensors[entry].shape), tuple(parameter.shape)
        if shape != wanted:
            raise InputError(
                f"{source} does not fit the model: {entry} is {_sides(shape)} there, but must be {wanted}; {_ADVICE}, "
                "or train with --new_head True if only the classifier differs."
            )
        if tensors[entry].dtype.kind not in "fiub":
            raise InputError(f"{source}: {entry} is {tensors[entry].dtype}, but a weight must be real.")


def _sides(shape) -> str:
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} dimensions"

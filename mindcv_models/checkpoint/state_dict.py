"""PyTorch state dicts from files of every kind, out of whatever they are wrapped in."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from ..errors import InputError, shown
from ..files import read_json, require_file
from .pickles import Inert
from .safetensors_file import is_safetensors, read_safetensors
from .tensors import FileTensor
from .torch_file import read_torch_file

__all__ = ["StateDict", "open_state_dict", "read_content", "state_dicts"]

# Where training scripts keep the weights, and where their moving averages; other keys are found by what they hold.
WEIGHTS = ("state_dict", "model", "model_state_dict")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict")
AVERAGED = re.compile(r"(^|[._])ema([._]|$)|averaged?_model")
NO_WEIGHTS = re.compile(r"optim|scaler|scheduler")
MAX_DEPTH = 4  # of the dicts in a file that are searched

# Prefixes of wrappers around the whole network, and entries that wrappers add; and the wrappers of parts that
# ``torch.compile``, FSDP, activation checkpointing and DDP leave within names.
WRAPPERS, WRAPPER_ENTRIES = ("module.", "model.", "_orig_mod."), ("n_averaged",)
WITHIN = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|(?<=\.)module\.")

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin)$")
MAX_SHARDS, MAX_INDEX = 1000, 16 << 20


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, still in their file.

    Attributes:
        origin: which part of the file they are, in words.
        left_out: entries that a wrapper added.
    """

    tensors: Dict[str, FileTensor]
    origin: str
    left_out: Tuple[str, ...] = ()


def open_state_dict(path: str, use_ema: bool = False) -> StateDict:
    """The state dict in ``path``: a file of ``torch.save``, old or new, or safetensors; no PyTorch is needed.

    Args:
        use_ema: take the moving averages (``state_dict_ema`` or ``model_ema``) rather than the weights themselves.

    Raises:
        InputError: no such file, not a checkpoint, damaged, or without what was asked for. Nothing in it is run.
    """
    require_file(path, "checkpoint", "give the path of a .pth, .pt, .bin, .pth.tar or .safetensors file")
    try:
        if path.endswith(".index.json"):
            content, keys = _read_shards(Path(path)), ()
        else:
            _refuse_shard(path)
            content, keys = _read(path, use_ema)
        if use_ema and not keys:
            raise InputError("it is a bare state dict and has no moving averages: leave --use_ema out")
        return _strip(_check(content), keys)
    except InputError as error:
        raise InputError(f"cannot read {path}: {str(error).rstrip('.')}.") from error
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the file and its permissions.") from error


def read_content(path: str) -> Any:
    """What is in a PyTorch or safetensors file, with a :class:`FileTensor` for every tensor.

    Raises:
        InputError: it is neither, or damaged.
    """
    try:
        return read_safetensors(path) if is_safetensors(path) else read_torch_file(path)
    except InputError as error:
        raise InputError(f"cannot read {path}: {str(error).rstrip('.')}.") from error


def _read(path: str, use_ema: bool = False) -> Tuple[Dict, Tuple[str, ...]]:
    return (read_safetensors(path), ()) if is_safetensors(path) else _unwrap(read_torch_file(path), use_ema)


def _refuse_shard(path):
    """A part of a checkpoint alone fits no network, and its names say so less clearly than its own."""
    shard = SHARD.search(path)
    if shard and int(shard[2]) > 1:
        raise InputError(
            f"it is part {int(shard[1])} of {int(shard[2])} of a checkpoint: give the .index.json file beside it"
        )


def _read_shards(path: Path) -> Dict[str, Any]:
    """The tensors of all parts of a checkpoint, from its index."""
    index = read_json(path, "index of a checkpoint in parts", MAX_INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError("it is JSON, but no index of a checkpoint in parts: its weight_map is missing")
    tensors = {}
    names = sorted(set(places.values()))
    if len(names) > MAX_SHARDS:
        raise InputError(f"it names more than {MAX_SHARDS} parts, more than any checkpoint has")
    for name in names:
        if Path(name).name != name:
            raise InputError(f"it names a part {shown(name)} outside its folder: do not trust it")
        require_file(path.with_name(name), "part of the checkpoint", "download all parts that the index names")
        tensors.update(_read(str(path.with_name(name)))[0])
    for name in sorted(set(places) ^ set(tensors))[:1]:
        raise InputError(f"its parts and the index differ in {shown(name)}: download all of them again")
    return tensors


def _unwrap(content: Any, use_ema: bool) -> Tuple[Dict, Tuple[str, ...]]:
    """The state dict that ``content`` is or holds, and the keys that lead there."""
    found = dict(state_dicts(content))
    averages = {keys: found[keys] for keys in found if any(AVERAGED.search(key) for key in keys)}
    candidates = averages if use_ema else {keys: found[keys] for keys in found if keys not in averages}
    if not candidates:
        _complain(content, averages, use_ema)
    known = [keys for name in WEIGHTS + AVERAGES for keys in candidates if name in keys]
    if not known and len(candidates) > 1:
        places = ", ".join(".".join(keys)[:40] for keys in list(candidates)[:6])
        raise InputError(f"it holds several state dicts, {places}: save one of them alone")
    keys = known[0] if known else next(iter(candidates))
    return candidates[keys], keys


def state_dicts(content: Any) -> Iterator[Tuple[Tuple[str, ...], Dict]]:
    """Every dict of tensors within dicts, after the keys that lead there; those of optimizers are passed over."""
    return _state_dicts(content, (), set())


def _state_dicts(content, keys, seen):
    if not isinstance(content, dict) or id(content) in seen:
        return
    seen.add(id(content))
    known = any(isinstance(content.get(key), dict) for key in WEIGHTS + AVERAGES)
    if _has_tensors(content) and not known:  # beside known keys there may be a tensor, such as the best accuracy
        yield keys, content
    elif len(keys) < MAX_DEPTH:
        for key, value in content.items():
            if isinstance(key, str) and not NO_WEIGHTS.search(key):
                yield from _state_dicts(value, (*keys, key), seen)


def _complain(content, averages, use_ema):
    if use_ema:
        raise InputError("it has no moving averages (state_dict_ema or model_ema): leave --use_ema out")
    if averages:
        key = ".".join(next(iter(averages)))[:40]
        raise InputError(f"it has only moving averages ({key}): give --use_ema True to take them")
    inert = [content, *(content[key] for key in WEIGHTS if isinstance(content, dict) and key in content)]
    for value in inert:
        if isinstance(value, Inert):
            raise InputError(f"it is a pickled {shown(str(value.origin))}: save its state_dict() instead")
    if not isinstance(content, dict):
        raise InputError("it holds no state dict: save model.state_dict()")
    known = ", ".join(shown(key) for key in list(content)[:8] if isinstance(key, str)) or "no names"
    raise InputError(f"it holds no state dict under {', '.join(WEIGHTS)}; at its top are {known}")


def _has_tensors(content) -> bool:
    return isinstance(content, dict) and any(
        isinstance(value, FileTensor) or _has_other_type(value) for value in content.values()
    )


def _has_other_type(value) -> bool:
    """True for a tensor of a type that is not read, such as float8."""
    return isinstance(value, Inert) and str(value.origin).endswith(" tensor")


def _check(content: Dict) -> Dict[str, FileTensor]:
    for name, value in content.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > 300:
            what = shown(name) if isinstance(name, str) else f"under a {type(name).__name__}"
            raise InputError(f"its state dict has an entry {what}, which is no parameter's name")
        if _has_other_type(value):
            raise InputError(
                f"its entry {name} is a {value.origin}, which is not read: save it as float32 or bfloat16, "
                "multiplied by its scale if it has one"
            )
        if not isinstance(value, FileTensor):
            what = value.origin if isinstance(value, Inert) else type(value).__name__
            raise InputError(f"its entry {name} is no dense tensor but a {shown(str(what))}: save plain tensors")
    return content


def _strip(tensors: Dict[str, FileTensor], keys: Tuple[str, ...]) -> StateDict:
    """Remove the prefixes of wrappers; whose other prefixes are is for the network to decide."""
    origin = f"{'.'.join(keys)} of the checkpoint" if keys else "the bare state dict"
    left_out = tuple(name for name in tensors if name in WRAPPER_ENTRIES)
    names = {name: WITHIN.sub("", name) for name in tensors if name not in WRAPPER_ENTRIES}
    while names:
        prefix = next((p for p in WRAPPERS if all(name.startswith(p) for name in names.values())), None)
        if prefix is None:
            break
        names = {name: inner[len(prefix) :] for name, inner in names.items()}
    if len(set(names.values())) < len(names):
        raise InputError(
            "it has two entries of one name, with and without a wrapper's prefix: save the network's own weights"
        )
    return StateDict({inner: tensors[name] for name, inner in names.items()}, origin, left_out)

"""What is in a checkpoint, as text."""

from typing import Any, Dict, Iterator

from ..errors import InputError, shown
from ..files import require_file
from .mindspore_file import is_ckpt, read_ckpt
from .pickles import Inert
from .state_dict import read_content, state_dicts
from .tensors import ITEM_SIZES, FileTensor

__all__ = ["list_file"]


def list_file(path: str) -> Iterator[str]:
    """Lines about the file ``path``: where its tensors are, and the name, shape and type of each.

    Raises:
        InputError: no such file, not a checkpoint, or damaged.
    """
    require_file(path, "checkpoint", "give a .ckpt, .pth or .safetensors file")
    content = read_ckpt(path) if is_ckpt(path) else read_content(path)
    found = dict(state_dicts(content))
    if not found:
        what = str(content.origin) if isinstance(content, Inert) else content
        raise InputError(f"{path} holds no tensors by name, but {shown(what)}.")
    for keys, tensors in found.items():
        yield from _lines(f"{path}: {'.'.join(keys)}" if keys else path, tensors)
    if () not in found and isinstance(content, dict):
        held = {keys[0] for keys in found}
        others = [f"{shown(key)[1:-1]} ({_kind(value)})" for key, value in content.items() if key not in held]
        if others:
            yield f"besides: {', '.join(others[:20])}" + (", ..." if len(others) > 20 else "")


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return shown(str(value.origin))[1:-1]
    return shown(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def _lines(title: str, tensors: Dict[str, Any]) -> Iterator[str]:
    real = {name: value for name, value in tensors.items() if isinstance(value, FileTensor)}
    numbers = sum(tensor.size for tensor in real.values())
    size = sum(tensor.size * ITEM_SIZES[tensor.kind] for tensor in real.values())
    yield f"{title}: {len(real)} tensors, {numbers:,} numbers, {size / 1e6:.1f} MB"
    names = {name: name if isinstance(name, str) and name.isprintable() else shown(name) for name in tensors}
    width = min(max(map(len, names.values())), 80)
    for name, value in tensors.items():
        kind = f"{tuple(value.shape)} {value.kind}" if isinstance(value, FileTensor) else _kind(value)
        yield f"  {names[name][:200].ljust(width)}  {kind}"

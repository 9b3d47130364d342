"""Operators that update many parameters at once, on the CPU."""

from pathlib import Path
from typing import Optional, Sequence

import mindspore as ms
from mindspore import Parameter

from .. import backend
from ..layers.custom import Loops

__all__ = ["update_operator"]

_SOURCE = Path(__file__).with_suffix(".cc")


def update_operator(name: str, written: Sequence[Parameter], read: int) -> Optional[Loops]:
    """An operator of ``updates.cc``, or None where the back end has none or a parameter is not float32.

    Called with a vector of numbers, the parameters ``written`` and ``read`` tensors more; returns a tensor ``(1,)`` to
    wait for. In graph mode only.
    """
    library = backend.compile_library(_SOURCE)
    if library is None or any(parameter.dtype != ms.float32 for parameter in written):
        return None
    writes = (False, *[True] * len(written), *[False] * read)
    return Loops(f"{library}:{name}", lambda *_: (1,), lambda first, *_: first, "aot", writes=writes)

"""Image sizes that a network does not take, said in one line."""

from contextlib import contextmanager
from typing import Iterable, Tuple

import mindspore as ms
import numpy as np
from mindcv.models.registry import get_pretrained_cfg
from mindspore import Tensor, nn

from .errors import InputError

__all__ = ["refused_sizes"]


@contextmanager
def refused_sizes(networks: Iterable[Tuple[str, nn.Cell]], size: Tuple[int, int], channels: int = 3,
                  option: str = "image_resize"):  # fmt: skip
    """Within it, an error of a network that does not take images of ``size``, a height and a width, is an InputError.

    Many of MindCV's networks take one size only, and say so when their graph is compiled, each in its own words or in
    an operator's. So after an error each of ``networks``, names of models and cells, is asked alone: one that fails
    with ``size`` and works with its own is to blame. ``option`` is what the size is called where it was given.
    """
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        for name, network in networks:
            refusal = _refusal(network, size, channels)
            own = get_pretrained_cfg(name).get("input_size", (3, 224, 224))[1:]
            if refusal and not _refusal(network, own, channels):
                raise InputError(
                    f"{name} does not take images of {size[0]} x {size[1]} ({refusal}): use {option} "
                    f"{' '.join(map(str, dict.fromkeys(own)))}, or another model."
                ) from error
        raise


def _refusal(network, size, channels):
    """What the network says to images of a size that it does not take, in one line; else nothing."""
    try:
        network.set_train(False)(Tensor(np.zeros((1, channels, *size)), ms.float32)).asnumpy()
    except ValueError as error:
        return str(error).strip().splitlines()[0].strip("'.")
    return ""

"""One-line errors for image sizes that a network does not support."""

from contextlib import contextmanager
from typing import Iterable, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from .errors import InputError
from .models.registry import config_of

__all__ = ["explain_size_errors"]


@contextmanager
def explain_size_errors(networks: Iterable[Tuple[str, nn.Cell]], size: Tuple[int, int], channels: int = 3,
                  option: str = "image_resize"):  # fmt: skip
    """A context that turns the error of a network that does not support images of ``size`` into an InputError.

    Many of MindCV's networks support one size only and fail when their graph is compiled, with messages of their own or
    of an operator. After an error each network is therefore tested alone: one that fails with ``size`` and works with
    its default size is the cause.

    Args:
        networks: names of models, and the cells.
        size: height and width.
        option: the option that set the size.

    Raises:
        InputError: one of ``networks`` does not support ``size``.
    """
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        for name, network in networks:
            refusal = _refusal(network, size, channels)
            own = config_of(name).input_size[1:]
            if refusal and not _refusal(network, own, channels):
                raise InputError(
                    f"{name} does not support images of {size[0]} x {size[1]} ({refusal}): use {option} "
                    f"{' '.join(map(str, dict.fromkeys(own)))}, or another model."
                ) from error
        raise


def _refusal(network, size, channels):
    """The first line of the network's error for images of ``size``, or an empty string without one."""
    try:
        network.set_train(False)(Tensor(np.zeros((1, channels, *size)), ms.float32)).asnumpy()
    except ValueError as error:
        return str(error).strip().splitlines()[0].strip("'.")
    return ""

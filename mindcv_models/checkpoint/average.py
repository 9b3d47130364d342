"""Averaging the weights of several checkpoints."""

from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np
from mindspore import Tensor, nn

from .files import load_weights

__all__ = ["load_average"]


def load_average(network: nn.Cell, paths: Sequence[Path], use_ema: Optional[bool] = False) -> str:
    """Load the mean of the weights of several checkpoints, running statistics of batch normalisation included.

    Source: Wortsman et al., "Model soups", ICML 2022: a uniform soup of fine-tuned runs, or of one run's epochs.

    Args:
        use_ema: see :func:`load_weights`.

    Returns:
        A description of the loaded weights, for the log.

    Raises:
        InputError: a file does not match the network.
    """
    sums: Dict[str, np.ndarray] = {}
    for path in paths:
        load_weights(network, str(path), use_ema)
        for name, parameter in network.parameters_dict().items():
            sums[name] = sums.get(name, 0) + parameter.asnumpy().astype(np.float64)
    for name, parameter in network.parameters_dict().items():
        parameter.set_data(Tensor((sums[name] / len(paths)).astype(parameter.asnumpy().dtype)))
    return f"the average of {', '.join(map(str, paths))}"

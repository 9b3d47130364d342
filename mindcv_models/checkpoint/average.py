"""The average of several checkpoints' weights."""

from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np
from mindspore import Tensor, nn

from .files import load_weights

__all__ = ["load_average"]


def load_average(network: nn.Cell, paths: Sequence[Path], use_ema: Optional[bool] = False) -> str:
    """Fill ``network`` with the mean of the weights of checkpoints, statistics of batch normalisation included.

    Source: Wortsman et al., "Model soups", ICML 2022: a uniform soup of runs from one start, or of one run's epochs.

    Args:
        use_ema: as :func:`load_weights` takes it, of each file.

    Returns:
        What was loaded, in words.

    Raises:
        InputError: a file that does not fit the network.
    """
    sums: Dict[str, np.ndarray] = {}
    for path in paths:
        load_weights(network, str(path), use_ema)
        for name, parameter in network.parameters_dict().items():
            sums[name] = sums.get(name, 0) + parameter.asnumpy().astype(np.float64)
    for name, parameter in network.parameters_dict().items():
        parameter.set_data(Tensor((sums[name] / len(paths)).astype(parameter.asnumpy().dtype)))
    return f"the average of {', '.join(map(str, paths))}"

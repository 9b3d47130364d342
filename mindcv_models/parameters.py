"""Values of parameters that a compiled graph already uses."""

import numpy as np
from mindspore import Parameter, Tensor, ops

__all__ = ["set_value"]


def set_value(parameter: Parameter, value: np.ndarray) -> None:
    """Give ``parameter`` the value of an array of its shape, in place.

    ``Parameter.set_data`` gives it other memory. MindSpore 2.8's compiled graphs do not notice that where they use a
    parameter in an ``if`` only, as a step does that accumulates gradients or scales the loss dynamically: what they
    write there from then on is lost.
    """
    ops.assign(parameter, Tensor(value, parameter.dtype))

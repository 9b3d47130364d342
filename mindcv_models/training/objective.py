"""What a training step minimizes: the seam between the step, which knows no task, and the tasks."""

from typing import Optional, Tuple

from mindspore import nn

__all__ = ["Objective"]


class Objective(nn.Cell):
    """A batch to the loss; each task derives its own.

    ``construct(*batch)`` takes the tensors of one batch, images first, and returns the total loss, a float32 scalar, or
    ``(loss, parts)`` with a float32 scalar for each name in ``parts``. Parts are reported and have no gradient of their
    own.

    Args:
        network: the network that is trained.

    Attributes:
        parts: names of the losses that are reported beside the total, such as ``("cls", "box")``.
        average: a cell whose parameters are the network's moving averages, if the loss needs it; or None.
    """

    parts: Tuple[str, ...] = ()

    def __init__(self, network: nn.Cell, average: Optional[nn.Cell] = None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.average = average

    def start_epoch(self, progress: float) -> bool:
        """Prepare for an epoch after the share ``progress``, 0 to 1, of all epochs; True if the loss has changed.

        The step is then compiled anew.
        """
        return False

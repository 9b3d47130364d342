"""Options of the machine: the device, the processes, and what a run logs."""

from dataclasses import dataclass, fields
from typing import Optional

from .groups import Group, option

__all__ = ["Device", "Logging", "System"]


@dataclass
class Device(Group):
    """Where and how a process computes."""

    title = "System"

    mode: int = option(0, "0 compiles the network as a graph, 1 runs eagerly (PyNative)", (0, 1))
    device_target: Optional[str] = option(
        None, "device to run on; default: the best that is there", ("Ascend", "GPU", "CPU"), also=("device",)
    )
    graph_cache: Optional[bool] = option(
        None, "read compiled graphs of earlier runs, and keep new ones; CPU, one process; default: the environment "
        "variable MINDCV_MODELS_GRAPH_CACHE, 1 or 0, or True"
    )  # fmt: skip

    @property
    def alone(self) -> "System":
        """The same for a script of one process."""
        return System(**{field.name: getattr(self, field.name) for field in fields(Device)})


@dataclass
class System(Device):
    """What :func:`mindcv_models.process.set_up` asks for."""

    title = "System"

    distribute: bool = option(False, "run on several devices, under mpirun or msrun", also=("distributed",))
    seed: int = option(
        42, "seed of the random numbers; rank r uses seed + r", at_least=0, also=("random_seed", "manual_seed")
    )


@dataclass
class Logging(Group):
    """What a training run says of itself."""

    title = "System"

    log_interval: int = option(
        100, "steps between two lines of the training log", at_least=1, also=("print_freq", "log_freq")
    )
    tensorboard: bool = option(False, "write each epoch's numbers for TensorBoard too; needs tensorboardX")

"""One device or many: mpirun and msrun, on Ascend, GPU and CPU.

MindSpore supports mpirun on Ascend and GPU. On the CPU it supports only its own launcher, so there the ranks that
mpirun started connect through that launcher's scheduler: rank 0 starts it as a child process and broadcasts its port.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Callable, Iterable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .backend import device_target, has_sync_batch_norm
from .cells import replace_cells, set_value
from .errors import InputError, RunError

__all__ = [
    "ONE_DEVICE",
    "AllReduceMean",
    "World",
    "average_parameters",
    "broadcast_parameters",
    "join_world",
    "on_every_rank",
    "sum_of_counts",
    "sum_over_ranks",
    "synchronize_batch_norm",
]

_LAUNCH = "mpirun -n 8 python train.py ... or msrun --worker_num=8 --local_worker_num=8 train.py ..."

# The program of the scheduler child. It exits when its parent does, even if that was killed.
_SCHEDULER = """
import os, threading, time
def watch(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
import mindspore
mindspore.set_device("CPU")
mindspore.communication.init()
"""


@dataclass(frozen=True)
class World:
    """Rank of this process, and the number of processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank. The Barrier operator has no CPU kernel, so this reduces one number."""
        sum_over_ranks([0.0], self)


ONE_DEVICE = World()


def launcher() -> str:
    """The launcher that started this process, msrun's scheduler included: ``"mpirun"``, ``"msrun"`` or ``""``."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ or "PMIX_RANK" in os.environ:
        return "mpirun"
    return "msrun" if "MS_ROLE" in os.environ else ""


def launched_rank() -> int:
    """This process's rank according to the launcher's environment, before communication is set up."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("MS_NODE_ID", "0")))


def join_world(distribute: bool) -> World:
    """Set up communication if ``distribute``.

    Raises:
        InputError: ``distribute`` without a launcher, or a launcher of several processes without ``distribute``.
    """
    started_by = launcher()
    if not distribute:
        count = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("MS_WORKER_NUM", "1")) if started_by else 1)
        if count > 1:
            raise InputError(
                f"{started_by} started {count} processes, but distribute is False: set it to True or start one."
            )
        return ONE_DEVICE
    if not started_by:
        raise InputError(
            f"distribute is True, but no launcher started this process: use {_LAUNCH} or --distribute False."
        )
    if started_by == "mpirun" and ms.get_context("device_target") == "CPU":
        _meet_on_cpu()
    ms.communication.init()
    return World(ms.communication.get_rank(), ms.communication.get_group_size())


def _meet_on_cpu():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = world.bcast((_own_address(world), free.getsockname()[1]), root=0)
    rank, size = world.Get_rank(), world.Get_size()
    MPI.Finalize()
    for name in [n for n in os.environ if n.startswith(("OMPI_", "PMIX_", "PRTE_"))]:
        del os.environ[name]
    os.environ.update(
        MS_WORKER_NUM=str(size), MS_NODE_ID=str(rank), MS_SCHED_HOST=address[0], MS_SCHED_PORT=str(address[1])
    )
    if rank == 0:
        subprocess.Popen(
            [sys.executable, "-c", _SCHEDULER],
            env={**os.environ, "MS_ROLE": "MS_SCHED"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    os.environ["MS_ROLE"] = "MS_WORKER"


def _own_address(world) -> str:
    """The address at which other ranks reach this one: loopback if all are on one host."""
    hosts = set(world.allgather(socket.gethostname()))
    return "127.0.0.1" if len(hosts) == 1 else socket.gethostbyname(socket.gethostname())


class AllReduceMean(nn.Cell):
    """The mean over ranks of every tensor in a tuple; with one rank, the tuple itself."""

    def __init__(self, world: World):
        super().__init__()
        self.size = world.size
        self.map = ops.HyperMap()
        self.reduce = ops.AllReduce(ops.ReduceOp.SUM) if world.size > 1 else None

    def construct(self, tensors):
        if self.reduce is None:
            return tensors
        return self.map(self.mean, tensors)

    def mean(self, tensor):
        return self.reduce(tensor) / self.size


def sum_over_ranks(values, world: World) -> np.ndarray:
    """The sum over ranks of a few numbers, exact for counts below 2^24."""
    values = np.asarray(values, np.float64)
    if world.size == 1:
        return values
    # Every back end can reduce float32; the two halves keep counts and sums exact enough.
    high = values.astype(np.float32)
    low = (values - high).astype(np.float32)
    total = ops.AllReduce(ops.ReduceOp.SUM)(Tensor(np.concatenate([high, low])))
    return total.asnumpy().astype(np.float64).reshape(2, -1).sum(0)


def sum_of_counts(counts: np.ndarray, world: World) -> np.ndarray:
    """The sum over ranks of an array of counts, int64, exact below 2^48 on up to 256 ranks.

    They are reduced in three parts of 16 bits, whose sums float32 holds exactly.
    """
    if world.size == 1:
        return counts
    parts = np.stack([counts >> shift & 0xFFFF for shift in (0, 16, 32)]).astype(np.float32)
    total = ops.AllReduce(ops.ReduceOp.SUM)(Tensor(parts)).asnumpy().astype(np.int64)
    return total[0] + (total[1] << 16) + (total[2] << 32)


def on_every_rank(write: Callable[[], None], world: World) -> None:
    """Call ``write``, which writes files, and wait for the other ranks' calls.

    Raises:
        RunError: on every rank, if a file could not be written on one of them.
    """
    failure = None
    try:
        write()
    except OSError as error:
        failure = error
    failures = sum_over_ranks([failure is not None], world)[0]
    if failure is not None:
        place = f" to {failure.filename}" if failure.filename else ""
        raise RunError(
            f"cannot write{place} ({failure.strerror or failure}): free disk space and continue with "
            "--resume auto; files written earlier are complete."
        ) from failure
    if failures:
        raise RunError("another process could not write its files.")


def broadcast_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Give every rank the values of rank 0."""
    _reduce_parameters(parameters, world, weight=float(world.rank == 0))


def average_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Give every rank the mean over ranks."""
    _reduce_parameters(parameters, world, weight=1 / world.size)


def _reduce_parameters(parameters, world, weight):
    if world.size == 1:
        return
    reduce = ops.AllReduce(ops.ReduceOp.SUM)
    for parameter in parameters:
        value = parameter.asnumpy()
        total = reduce(Tensor((value * weight).astype(value.dtype)))
        set_value(parameter, total.asnumpy())


def synchronize_batch_norm(network: nn.Cell, world: World) -> None:
    """Normalise batches over the images of all ranks, in place; the parameters are unchanged.

    Raises:
        InputError: the back end does not support it.
    """
    if not has_sync_batch_norm():
        raise InputError(
            f"sync_bn: MindSpore synchronizes batch normalisation on Ascend, not on {device_target()}: leave sync_bn "
            "out; its statistics are then averaged over the processes before each validation."
        )
    if world.size == 1:
        return
    replace_cells(network, lambda cell: _synchronized(cell) if type(cell) is nn.BatchNorm2d else None)


def _synchronized(norm):
    result = nn.SyncBatchNorm(norm.num_features, norm.eps, 1 - norm.momentum)  # it stores 1 - momentum
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        setattr(result, name, getattr(norm, name))
    return result.set_train(norm.training)

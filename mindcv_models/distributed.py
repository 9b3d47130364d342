"""One device or many: mpirun and msrun, on Ascend, GPU and CPU.

MindSpore supports mpirun on Ascend and GPU. On the CPU it supports only its own launcher, so there the ranks that
mpirun started connect through that launcher's scheduler: rank 0 starts it as a child process and broadcasts its port.
"""

import errno
import functools
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .backend import device_target, has_sync_batch_norm
from .cells import replace_cells, set_value
from .errors import InputError, RunError
from .hosts import address_towards, end_together, leave, meeting_address, wait_for
from .layers.custom import are_single, in_graph_mode
from .shared_memory import mean_operator, share_memory

__all__ = [
    "ONE_DEVICE",
    "AllReduceMean",
    "World",
    "average_parameters",
    "broadcast_parameters",
    "join_world",
    "launch",
    "leave_world",
    "on_every_rank",
    "sum_of_counts",
    "sum_over_ranks",
    "synchronize_batch_norm",
]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, or the file is full
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

_own_scheduler = False  # whether the ranks of this job, started by mpirun on the CPU, meet at _SCHEDULER


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


@dataclass(frozen=True)
class Launch:
    """How this process was started: by ``"mpirun"`` or ``"msrun"``, its scheduler included, or by neither (``""``)."""

    launcher: str = ""
    rank: int = 0
    size: int = 1


def launch() -> Launch:
    """How this process was started, from what launchers put into the environment.

    Clusters and shells hand on single variables of a launcher that has nothing to do with this process. So a launcher
    counts only if all of its variables are there and agree, and, of mpirun, if the folder that it shares with its
    processes still exists.
    """
    rank, size = _number("OMPI_COMM_WORLD_RANK"), _number("OMPI_COMM_WORLD_SIZE")
    shared = os.environ.get("PMIX_SERVER_TMPDIR")
    if rank is not None and size is not None and rank < size and (shared is None or os.path.isdir(shared)):
        return Launch("mpirun", rank, size)
    rank, size = _number("MS_NODE_ID"), _number("MS_WORKER_NUM")
    role, scheduler = os.environ.get("MS_ROLE"), os.environ.get("MS_SCHED_HOST") and _number("MS_SCHED_PORT")
    if scheduler and size and role in ("MS_WORKER", "MS_SCHED"):
        return Launch("msrun", rank if role == "MS_WORKER" and rank is not None and rank < size else 0, size)
    return Launch()


def _number(name: str) -> Optional[int]:
    """The whole number in an environment variable, or None."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def join_world(distribute: bool) -> World:
    """Set up communication if ``distribute``.

    Raises:
        InputError: ``distribute`` without a launcher, or a launcher of several processes without ``distribute``.
        RunError: the hosts do not reach each other.
    """
    started = launch()
    if not distribute:
        if started.size > 1:
            error = InputError(
                f"{started.launcher} started {started.size} processes, but distribute is False: set it to True or "
                "start one."
            )
            error.of_one_rank = True  # rank 0 may run something else
            raise error
        return ONE_DEVICE
    if not started.launcher:
        raise InputError(
            f"distribute is True, but no launcher started this process: use {_LAUNCH} or --distribute False."
        )
    on_cpu = device_target() == "CPU"
    if on_cpu and started.launcher == "mpirun":
        _meet_on_cpu()
    if on_cpu and os.environ["MS_ROLE"] == "MS_WORKER":
        _prepare_worker()
    ms.communication.init()
    world = World(ms.communication.get_rank(), ms.communication.get_group_size())
    if on_cpu and world.size > 1:
        _connect(world)
    return world


def _meet_on_cpu():
    global _own_scheduler
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    address = meeting_address(world)
    with socket.socket() as free:
        free.bind(("", 0))
        port = world.bcast(free.getsockname()[1], root=0)
    rank, size = world.Get_rank(), world.Get_size()
    MPI.Finalize()
    for name in [n for n in os.environ if n.startswith(("OMPI_", "PMIX_", "PRTE_"))]:
        del os.environ[name]
    os.environ.update(MS_WORKER_NUM=str(size), MS_NODE_ID=str(rank), MS_SCHED_HOST=address, MS_SCHED_PORT=str(port))
    if rank == 0:
        subprocess.Popen(
            [sys.executable, "-c", _SCHEDULER],
            env={**os.environ, "MS_ROLE": "MS_SCHED"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    os.environ["MS_ROLE"] = "MS_WORKER"
    _own_scheduler = True


def leave_world(status: int) -> None:
    """End this process with ``status`` if it is one of several that mpirun started on the CPU; else return.

    MindSpore's own end takes its connections down while its thread still reads from them, which ended one rank in some
    hundred jobs by a segmentation fault, with all results written. The scheduler that this project starts needs no
    farewell; that of msrun waits for one.
    """
    if _own_scheduler:
        leave(status)


def _prepare_worker():
    """Settings of MindSpore's communication on the CPU that suit several hosts, unless they are made already.

    It would listen at the address of the first interface, which may belong to another network. And a rank may come to
    a message minutes after the others, whose kernels were compiled on an earlier run: MindSpore waits 30 seconds.
    A worker that does not find the scheduler at once, which starts as late as itself, sleeps 10 to 30 seconds.
    """
    os.environ.setdefault("MS_WORKER_IP", address_towards(os.environ["MS_SCHED_HOST"]))
    os.environ.setdefault("MS_NODE_TIMEOUT", "1800")
    wait_for(os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"]), seconds=60)


@functools.cache
def _connect(world: World):
    def from_rank_0(numbers):
        return sum_over_ranks(numbers if world.is_main else np.zeros(len(numbers)), world)

    end_together(world.rank, world.size, os.environ["MS_WORKER_IP"], from_rank_0)
    if os.environ["MS_SCHED_HOST"].startswith("127."):  # all ranks are on this host
        share_memory(world.rank, world.size, lambda numbers: sum_over_ranks(numbers, world))


class AllReduceMean(nn.Cell):
    """The mean over ranks of every tensor in a tuple; with one rank, the tuple itself.

    Each message costs a start-up time of its own, so tensors of one type travel one behind the other in buckets.
    Ranks that share memory need no messages in graph mode.

    Args:
        bucket: bytes that a message has about; a larger tensor travels alone.
    """

    def __init__(self, world: World, bucket: int = 25 << 20):
        super().__init__()
        self.size = world.size
        self.bucket = bucket
        self.map = ops.HyperMap()
        self.reduce = ops.AllReduce(ops.ReduceOp.SUM) if world.size > 1 else None
        self.shared = mean_operator() if world.size > 1 else None

    def construct(self, tensors):
        if self.reduce is None:
            return tensors
        if self.shared is not None and in_graph_mode() and are_single(tensors):
            return self.shared(*tensors)
        means = ()
        for first, end in buckets(self.map(kind_and_bytes, tensors), self.bucket):
            means += self.means(tensors[first:end])
        return means

    def means(self, tensors):
        if len(tensors) == 1:
            return (self.reduce(tensors[0]) / self.size,)
        total = self.reduce(ops.concat(self.map(flat, tensors))) / self.size
        return self.map(ops.partial(part_of, total), starts(self.map(count, tensors)), tensors)


def kind_and_bytes(tensor):
    return tensor.dtype, tensor.size * tensor.itemsize


@ops.constexpr
def buckets(tensors, limit):
    """First and end of each bucket, for the type and bytes of every tensor; both within a graph and outside."""
    firsts, kind, filled = [], None, 0
    for index, (own_kind, own_bytes) in enumerate(tensors):
        if own_kind != kind or filled + own_bytes > limit:
            firsts.append(index)
            kind, filled = own_kind, 0
        filled += own_bytes
    return tuple(zip(firsts, [*firsts[1:], len(tensors)]))


@ops.constexpr
def starts(counts):
    """Where each tensor begins in its bucket."""
    return tuple(np.cumsum((0, *counts))[:-1].tolist())


def count(tensor):
    return tensor.size


def flat(tensor):
    return tensor.reshape(-1)


def part_of(total, start, tensor):
    """The mean of ``tensor``, which starts at ``start`` of its bucket."""
    return ops.slice(total, (start,), (tensor.size,)).reshape(tensor.shape)


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


def gather_bytes(own: bytes, world: World) -> List[bytes]:
    """What each rank gives, on every rank, in their order.

    Six bytes travel in a float64, which holds whole numbers of 48 bits exactly; every rank fills its own part.
    """
    if world.size == 1:
        return [own]
    lengths = np.zeros(world.size)
    lengths[world.rank] = len(own)
    lengths = sum_over_ranks(lengths, world).astype(np.int64)
    ends = np.cumsum(-(-lengths // 6))
    filled = np.frombuffer(own.ljust(-(-len(own) // 6) * 6, b"\0"), np.uint8).reshape(-1, 6)
    values = np.zeros(ends[-1])
    values[ends[world.rank] - len(filled) : ends[world.rank]] = (
        np.pad(filled, ((0, 0), (0, 2))).reshape(-1).view("<u8")
    )  # fmt: skip
    parts = np.split(sum_over_ranks(values, world).astype("<u8"), ends[:-1])
    return [
        part.view(np.uint8).reshape(-1, 8)[:, :6].tobytes()[:length] for part, length in zip(parts, lengths.tolist())
    ]


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
        advice = "free disk space" if failure.errno in _NO_ROOM else "mend that"
        raise RunError(
            f"cannot write{place} ({failure.strerror or failure}): {advice} and continue with --resume auto; files "
            "written earlier are complete."
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

"""A folder of compiled graphs, and MindSpore made to read them.

MindSpore's own compile cache finds a graph by its place among the compilations of a process and by the text of the
script's own modules: options, shapes and versions do not count. Here a graph is found by the digest of all that it is
made of, and MindSpore is only shown the one that it is to read.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Dict, Optional

import mindspore as ms
from mindspore import Parameter, context, nn
from mindspore.common.api import _cell_graph_executor as executor

from .. import backend
from ..errors import one_line
from ..files import atomic_write
from .describe import UndescribedError, check_sources, described

__all__ = ["VARIABLE", "call_cached", "compile_cached", "use_graph_cache"]

logger = logging.getLogger(__name__)

VARIABLE = "MINDCV_MODELS_GRAPH_CACHE"
MAX_BYTES = 256 << 20  # of all graphs of a host; the least recently used ones are removed
VERSIONS = ("2.8.",)  # of MindSpore, whose private interface this uses

_reads = 0  # graphs that MindSpore was made to read in this process: it looks for the file of that number


class UnsupportedError(Exception):
    """Why a graph is not cached."""


def use_graph_cache(wanted: bool) -> None:
    """Switch the cache on or off for this process and those that it starts."""
    os.environ[VARIABLE] = str(int(wanted))


def compile_cached(what: str, cell: nn.Cell, *inputs) -> Optional[str]:
    """Compile ``cell`` for ``inputs`` with the help of earlier processes, where that is possible and nobody forbade it.

    Otherwise the first call compiles the cell, as ever.

    Args:
        what: the name of the graph in the log.

    Returns:
        ``"read"`` or ``"written"``, or None where the cache is not used.
    """
    if os.environ.get(VARIABLE) == "0" or cell.compile_cache:
        return None
    start = time.perf_counter()
    try:
        folder = _folder()
        digest, parameters = described(cell, inputs)
        with _alone(_place().with_name("graph_cache.lock")):
            outcome = _compile(cell, inputs, folder / digest, parameters)
    except (UndescribedError, UnsupportedError, OSError) as reason:
        level = logging.INFO if os.environ.get(VARIABLE) == "1" else logging.DEBUG  # who did not ask need not know
        _say_once(level, f"{what}: compiled without the graph cache: {reason}")
        return None
    words = {"read": "read from", "written": "compiled, and written to"}[outcome]
    logger.info("%s: %s the graph cache in %.1f s", what, words, time.perf_counter() - start)
    return outcome


def call_cached(what: str, cell: nn.Cell, *inputs):
    """What ``cell`` gives for ``inputs``; before its first call, :func:`compile_cached`."""
    compile_cached(what, cell, *inputs)
    return cell(*inputs)


@functools.cache
def _say_once(level, text):
    logger.log(level, text)


def _folder() -> Path:
    """The folder of graphs, beside the compiled kernels of this host.

    Raises:
        UnsupportedError: the cache has no part in how this process runs.
    """
    if backend.device_target() != "CPU":
        raise UnsupportedError("it is for the CPU")
    if ms.get_context("mode") != ms.GRAPH_MODE:
        raise UnsupportedError("it is for graph mode, --mode 0")
    if "MS_ROLE" in os.environ or ms.get_auto_parallel_context("device_num") > 1:
        raise UnsupportedError("it is for one process, not for several ranks")
    if not ms.__version__.startswith(VERSIONS):
        raise UnsupportedError(f"it is for MindSpore {VERSIONS[-1]}x, and this is {ms.__version__}")
    if "MS_COMPILER_CACHE_ENABLE" in os.environ or ms.get_context("enable_compile_cache"):
        raise UnsupportedError("MindSpore's own compile cache is on")
    if not backend.fuse_elementwise():
        raise UnsupportedError("kernels of our own are not in use here")
    return Path(os.environ["MS_COMPILER_CACHE_PATH"]).resolve() / "graphs"


@functools.cache
def _place() -> Path:
    """Where MindSpore looks for a graph; it asks the environment once."""
    return Path(os.environ["MS_COMPILER_CACHE_PATH"]).resolve() / "rank_0" / "graph_cache"


@contextlib.contextmanager
def _alone(lock: Path):
    """Keep other processes out: MindSpore reads a graph from one place only."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnsupportedError("another process is using it") from None
        yield


def _compile(cell, inputs, path, parameters):
    graph, outcome = _load(path), "read"
    if graph is None:
        graph, outcome = _front_end(cell, inputs), "written"
        check_sources()
        _save(path, graph)
    try:
        _back_end(cell, inputs, graph, parameters)
    except (RuntimeError, UnsupportedError) as error:  # where the network is to blame, its first call says so again
        path.unlink()
        cell.compile_cache.clear()
        raise UnsupportedError(f"MindSpore could not use its graph ({one_line(error)})") from error
    return outcome


@contextlib.contextmanager
def _setting(name):
    """Switch one of MindSpore's settings on, without its advice to set it in the environment of the whole process."""
    key = context.ms_ctx_param.__members__[name]
    context._context().set_param(key, True)
    try:
        yield
    finally:
        context._context().set_param(key, False)


def _front_end(cell, inputs) -> bytes:
    """The graph as MindSpore's front end makes it: parsed, with types and gradients, optimised."""
    with _setting("precompile_only"):
        cell.compile(*inputs)
    cell.compile_cache.clear()  # it is not compiled yet
    try:
        return executor._graph_executor.get_func_graph_proto(cell.current_phase, "mind_ir", False)
    except RuntimeError as error:
        raise UnsupportedError(f"MindSpore could not write its graph ({one_line(error)})") from error


def _back_end(cell, inputs, graph: bytes, parameters: Dict[str, Parameter]) -> None:
    """Compile the rest of ``graph``, whose parameters become those that are given, by name."""
    global _reads
    number, _reads = _reads, _reads + 1
    file = _place() / f"compile_cache_{number}.mindir"
    shutil.rmtree(file.parent, ignore_errors=True)
    file.parent.mkdir(parents=True)
    file.write_bytes(graph)
    # A cell does not list the parameters that it only refers to.
    object.__setattr__(cell, "parameters_dict", lambda: parameters)
    # Without a list of source files MindSpore compares none, and reads the graph.
    executor._set_compile_cache_dep_files = lambda _: executor._graph_executor.set_compile_cache_dep_files([])
    try:
        with _setting("enable_compile_cache"):
            cell.compile(*inputs)
        if file.read_bytes() != graph:
            raise UnsupportedError("it was not read, but made anew")
    finally:
        del executor._set_compile_cache_dep_files
        object.__delattr__(cell, "parameters_dict")
        shutil.rmtree(file.parent, ignore_errors=True)
    for name, value in executor._graph_executor.get_params(cell.current_phase).items():
        if name not in parameters or value.data_ptr() != parameters[name].data_ptr():
            raise UnsupportedError(f"its {name} is not the network's")


def _load(path: Path) -> Optional[bytes]:
    """The graph in a file, or None if there is none or it is damaged."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    checksum, graph = content[:32], content[32:]
    return graph if hashlib.sha256(graph).digest() == checksum else None


def _save(path, graph):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(hashlib.sha256(graph).digest() + graph)
    files = [(each.stat().st_mtime, each.stat().st_size, each) for each in path.parent.iterdir()]
    total = 0
    for _, size, each in sorted(files, reverse=True):
        total += size
        if total > MAX_BYTES and each != path:
            each.unlink()

"""What differs between CPU, GPU and Ascend, in one place.

Models and layers ask here; nothing else in the project looks at the device.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

import mindspore as ms

from .files import atomic_write, cache_folder, temporary_cache

logger = logging.getLogger(__name__)

# Element-wise operators that the CPU's graph kernels may fuse. An exponential inside a fused kernel loses accuracy, so
# the list stays with exact arithmetic.
_FUSED_ON_CPU = ("Mul", "Add", "Sub", "Div", "RealDiv", "Minimum", "Maximum")
# By default graph kernels also take composite operators (bias, ReLU, ...) apart, which gains nothing here and doubles
# the number of kernels to compile; there is no such operator as "none", so none is.
_GRAPH_KERNEL_FLAGS = f"--enable_cluster_ops_only={','.join(_FUSED_ON_CPU)} --enable_expand_ops_only=none"
# Loops whose numbers may trap (a comparison with NaN) do not become vector instructions; nobody catches such traps.
_COMPILER = ("g++", "-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")


def device_target() -> str:
    """The back end that MindSpore compiles for: ``"CPU"``, ``"GPU"`` or ``"Ascend"``."""
    return ms.get_context("device_target")


_portable = False


@contextlib.contextmanager
def portable_form():
    """Cells that are built and compiled within take a form of plain operators, which exporters know."""
    global _portable
    _portable, before = True, _portable
    try:
        yield
    finally:
        _portable = before


def deform_by_operator() -> bool:
    """Whether deformable convolution is MindSpore's own operator: slower, but one that exporters can recognise."""
    return _portable


def fuse_elementwise() -> bool:
    """Let CPU graphs fuse runs of plain arithmetic into single kernels; True where that is in force."""
    return not _portable and _fused_kernels()


@functools.cache
def _fused_kernels() -> bool:
    """Set the process up to fuse, once, if it can.

    GELU's rational error function costs about 70 ms a map as separate operators and 4 ms fused. It is a setting of
    the process, made once, when the first cell that profits from it is built. The compiled kernels go to
    ``~/.cache/mindcv_models/<host>``, unless ``MS_COMPILER_CACHE_PATH`` says otherwise, and are found again there.
    Without a compiler to build them the exact operator is used, and one warning says so.
    """
    if device_target() != "CPU":
        return False
    missing = [name for name in ("decorator", "attr") if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("g++") else ["g++"]
    if missing:
        logger.warning(
            "GELU and depthwise convolutions run five to ten times slower: CPU kernels of our own need %s; install it.",
            " and ".join(missing),
        )
        return False
    os.environ.setdefault("MS_COMPILER_CACHE_PATH", str(_kernel_cache()))
    os.environ.setdefault("AKG_WHITE_LIST_PATH", str(Path(ms.__file__).parent / "_akg"))  # else it prints, per kernel
    ms.set_context(enable_graph_kernel=True, graph_kernel_flags=_GRAPH_KERNEL_FLAGS)
    _stop_openmp_spinning()
    _keep_kernel_compiler()
    return True


def _kernel_cache() -> Path:
    """A folder of this host's own, since kernels are compiled for its processor, and of this user's, who runs them.

    Where there is no home to write to, it lies with the temporary files.
    """
    for place in (cache_folder(), temporary_cache()):
        folder = place / platform.node()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="mindcv_models-"))


def compile_library(source: Path) -> Optional[Path]:
    """The shared library of operators in C++ for the CPU, compiled once for a host; None where they are not to be used.

    They need what fused kernels need, and are kept beside them.
    """
    return _compiled(source) if fuse_elementwise() else None


def library_of(source: Path) -> Path:
    """Where the library of a source is kept; another one than that of other code, headers or flags."""
    code = b"".join(path.read_bytes() for path in [source, *sorted(Path(__file__).parent.glob("*/*.h"))])
    digest = hashlib.sha256(code + " ".join(_COMPILER).encode()).hexdigest()[:16]
    return Path(os.environ["MS_COMPILER_CACHE_PATH"]).resolve() / f"{source.stem}_{digest}.so"


@functools.cache
def _compiled(source):
    library = library_of(source)
    try:
        if not library.exists():
            _compile(source, library)
        ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        logger.warning("%s runs several times slower: g++ could not make it (%s).", source.stem, words.splitlines()[0])
        return None
    return library


def _compile(source, library):
    library.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(library) as partial:  # so that another process never sees half a library
        command = [*_COMPILER, "-o", str(partial), str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True)


def average_by_matmul() -> bool:
    """Whether means within layers are faster as matrix products with a constant.

    On the CPU they take half the time of layer normalisation or a reduction; elsewhere those operators are better.
    """
    return device_target() == "CPU" and not _portable


def skip_empty_rows() -> bool:
    """Whether leaving out rows that do not count is worth branches in the graph; elsewhere those cost more."""
    return device_target() == "CPU" and not _portable


def synchronize() -> None:
    """Wait until the device has done everything that it was given; the CPU has by the time that a result is read."""
    if device_target() != "CPU":
        ms.runtime.synchronize()


def peak_memory() -> Optional[int]:
    """Bytes that this process took at the most so far; None where the system does not tell.

    On GPU and Ascend that is what its tensors took on the device. MindSpore keeps no account on the CPU, so there it
    is the largest resident size of the whole process, as Linux keeps it.
    """
    if device_target() != "CPU":
        return ms.runtime.max_memory_allocated()
    try:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(peak[1]) * 1024 if peak else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice.

    MindSpore has no exception of its own for that, but a RuntimeError, with words that differ between its parts:
    "Memory not enough" and "Memory isn't enough and alloc failed" from a kernel on any back end, "Out of Memory!!!
    Request memory size" and "Malloc device memory failed" on Ascend, "Allocate memory failed" in eager mode.
    """
    words = r"memory (is not|isn't|not) enough|out of memory|(malloc|alloc(ate)?)( \w+)? mem(ory)? failed"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error), re.IGNORECASE))


def has_sync_batch_norm() -> bool:
    """Whether MindSpore documents batch normalisation over the images of all devices (``nn.SyncBatchNorm``)."""
    return device_target() == "Ascend"


def _keep_kernel_compiler() -> None:
    """Block SIGPIPE, which Python ignores and MindSpore takes for the end of its kernel compiler.

    Its handler closed the pipes to the compiler after any broken pipe or socket of the process, such as a closed
    standard output: "Send request before Open() error" when the next kernel was compiled, and a wait without end when
    one was compiled again. A call that writes still fails with EPIPE.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])


def _stop_openmp_spinning() -> None:
    """Stop idle OpenMP threads from spinning.

    Fused kernels run on GNU OpenMP, whose threads busy-wait 3 ms after each kernel and take the cores from the next
    convolution, which has threads of its own: networks then run at half to a third of their speed.
    ``OMP_WAIT_POLICY=passive`` prevents that but is read when MindSpore is imported. With more OpenMP threads than
    cores the wait is short too, so this makes as many, once; they sleep from then on.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    try:
        openmp = ctypes.CDLL("libgomp.so.1")
        openmp.GOMP_parallel(openmp.omp_get_num_threads, None, (os.cpu_count() or 1) + 1, 0)
    except (OSError, AttributeError):
        pass  # another OpenMP library: nothing to mend

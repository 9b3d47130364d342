"""What differs between CPU, GPU and Ascend, in one place.

Models and layers ask here; nothing else in the project looks at the device.
"""

import functools
import os

import mindspore as ms

# Element-wise operators that the CPU's graph kernels may fuse. Fusing everything halves ResNet-50's speed, and an
# exponential inside a fused kernel loses accuracy, so the list stays with exact arithmetic.
_FUSED_ON_CPU = ("Mul", "Add", "Sub", "Div", "RealDiv", "Minimum", "Maximum")


def device_target() -> str:
    """The back end that MindSpore compiles for: ``"CPU"``, ``"GPU"`` or ``"Ascend"``."""
    return ms.get_context("device_target")


@functools.lru_cache(maxsize=None)
def fuse_elementwise() -> bool:
    """Let CPU graphs fuse runs of plain arithmetic into single kernels; True where that is in force.

    GELU's rational error function costs about 70 ms a map as separate operators and 4 ms fused. It is a setting of
    the process, made once, when the first cell that profits from it is built.
    """
    if device_target() != "CPU":
        return False
    os.environ.setdefault("AKG_WHITE_LIST_PATH", os.devnull)
    ms.set_context(
        enable_graph_kernel=True, graph_kernel_flags=f"--enable_cluster_ops_only={','.join(_FUSED_ON_CPU)}"
    )
    return True


def sum_channels_by_matmul() -> bool:
    """Whether to average a map over its channels by a matrix product, instead of transposing it for layer normalisation.

    On the CPU that takes half the time; elsewhere the operator for layer normalisation is better.
    """
    return device_target() == "CPU"

"""Normalization in the form that is fastest on each back end; the same parameters and functions everywhere."""

import functools
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import signature as sig

from .. import backend
from .custom import Loops, in_graph_mode

_SOURCE = Path(__file__).with_name("batch_norm.cc")


def BatchNorm2d(channels, eps=1e-5) -> nn.BatchNorm2d:  # noqa: N802, it stands for a class
    """``nn.BatchNorm2d`` whose running statistics move by a tenth a step."""
    cell = FusibleBatchNorm2d if backend.fuse_elementwise() else nn.BatchNorm2d
    return cell(channels, eps=eps, momentum=0.9)


class FusibleBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by loops in C++ in training; in evaluation plain arithmetic, fused with what surrounds it."""

    def __init__(self, channels, eps, momentum):
        super().__init__(channels, eps=eps, momentum=momentum)
        library = backend.compile_library(_SOURCE)
        self.loops = library and _batch_norm_loops(library)
        self.settings = Tensor([momentum, eps], ms.float32)

    def construct(self, x):
        if self.training:
            return self.over_batch(x)
        gain = self.gamma * ops.rsqrt(self.moving_variance + self.eps)
        shift = self.beta - self.moving_mean * gain
        return x * gain.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)

    def over_batch(self, x):
        if self.use_batch_statistics is not None:
            return super().construct(x)
        parameters = self.gamma, self.beta, self.moving_mean, self.moving_variance
        if self.loops is not None and in_graph_mode():
            return self.loops(x.astype(ms.float32), *parameters, self.settings)[0].astype(x.dtype)
        # What nn.BatchNorm2d does with a map, without its branches: the compiler would make ten functions of them.
        return self.bn_train(x, *parameters)[0]


@functools.cache
def _batch_norm_loops(library: Path) -> Loops:
    """Maps, gain, shift, running mean and variance, settings to the result and what its gradient needs of the batch.

    The compiler has to know that the running statistics are written.
    """

    def gradients(x, gain, shift, running_mean, running_variance, settings, out, dout):
        found = differentiate(x, dout[0], gain, out[1], out[2])
        return *found, ops.zeros_like(running_mean), ops.zeros_like(running_variance), ops.zeros_like(settings)

    differentiate = Loops(
        f"{library}:differentiate", lambda x, _, gain, *__: (x, gain, gain), lambda x, *_: (x, x, x), "aot"
    )
    loops = Loops(
        f"{library}:normalize", lambda x, gain, *_: (x, gain, gain), lambda x, *_: (x, x, x), "aot", bprop=gradients
    )
    loops.set_signatures(
        tuple(
            sig.make_sig(name, sig.sig_rw.RW_WRITE if name.startswith("running") else sig.sig_rw.RW_READ)
            for name in ("x", "gain", "shift", "running_mean", "running_variance", "settings")
        )
    )
    loops.add_prim_attr("side_effect_mem", True)
    return loops


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, ``(..., C)``; means are matrix products where those are faster."""

    def __init__(self, channels, epsilon=1e-5):
        super().__init__((channels,), epsilon=epsilon)
        self.by_matmul = backend.average_by_matmul()
        self.average = Tensor(np.full((channels, 1), 1 / channels, np.float32))

    def construct(self, x):
        if not self.by_matmul:
            return self.over_last_axis(x)
        wide = x.astype(ms.float32).reshape(-1, x.shape[-1])  # (N, C)
        centred = wide - ops.matmul(wide, self.average)
        variance = ops.matmul(centred * centred, self.average)  # (N, 1)
        out = centred * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta
        return out.reshape(x.shape).astype(x.dtype)

    def over_last_axis(self, x):
        # ops.layer_norm would compile to an operator that only Ascend has.
        out, _, _ = self.layer_norm(x, self.gamma.astype(x.dtype), self.beta.astype(x.dtype))
        return out


class ChannelNorm(LayerNorm):
    """Layer normalisation over the channels of a map ``(B, C, H, W)``."""

    def construct(self, x):
        if self.by_matmul:
            return self.by_products(x)
        return self.over_last_axis(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def by_products(self, x):
        b, c, h, w = x.shape
        wide = x.astype(ms.float32).reshape(b, c, h * w)
        average = ops.broadcast_to(self.average.reshape(1, 1, c), (b, 1, c))
        centred = wide - ops.matmul(average, wide)  # (B, C, N) less its mean (B, 1, N)
        variance = ops.matmul(average, centred * centred)
        out = centred * ops.rsqrt(variance + self.epsilon) * self.gamma.reshape(-1, 1) + self.beta.reshape(-1, 1)
        return out.reshape(b, c, h, w).astype(x.dtype)

"""Normalization in the form that is fastest on each back end; the same parameters and functions everywhere."""

import functools
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend
from .custom import Loops, in_graph_mode

_SOURCE = Path(__file__).with_suffix(".cc")


def BatchNorm2d(channels, eps=1e-5) -> nn.BatchNorm2d:  # noqa: N802, it stands for a class
    """``nn.BatchNorm2d`` whose running statistics move by a tenth a step."""
    cell = FusibleBatchNorm2d if backend.fuse_elementwise() else nn.BatchNorm2d
    return cell(channels, eps=eps, momentum=0.9)


class FusibleBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by loops in C++ in training.

    In evaluation, and where it is frozen, it is plain arithmetic, fused with what surrounds it.
    """

    def __init__(self, channels, eps, momentum):
        super().__init__(channels, eps=eps, momentum=momentum)
        library = backend.compile_library(_SOURCE)
        self.loops, self.joint = library and _batch_norm_loops(library), library and _joint_loops(library)
        self.settings = Tensor([momentum, eps], ms.float32)

    def add_flags(self, **flags):
        """Float32 whatever is asked for: the loops write the running statistics, not cast copies of them."""
        if flags.get("fp16") or flags.get("bf16"):
            flags.update(fp16=False, bf16=False, fp32=True)
        super().add_flags(**flags)

    def construct(self, x):
        if self.training and self.use_batch_statistics is None:  # False where it is frozen
            return self.over_batch(x)
        gain = self.gamma * ops.rsqrt(self.moving_variance + self.eps)
        shift = self.beta - self.moving_mean * gain
        return x * gain.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)

    def over_batch(self, x):
        parameters = self.gamma, self.beta, self.moving_mean, self.moving_variance
        if self.loops is not None and in_graph_mode():
            return self.loops(x.astype(ms.float32), *parameters, self.settings)[0].astype(x.dtype)
        # What nn.BatchNorm2d does with a map, without its branches: the compiler would make ten functions of them.
        return self.bn_train(x, *parameters)[0]


@functools.cache
def _batch_norm_loops(library: Path) -> Loops:
    """Maps, gain, shift, running mean and variance, settings to the result and what its gradient needs of the batch."""

    def gradients(x, gain, shift, running_mean, running_variance, settings, out, dout):
        found = differentiate(x, dout[0], gain, out[1], out[2])
        return *found, ops.zeros_like(running_mean), ops.zeros_like(running_variance), ops.zeros_like(settings)

    differentiate = Loops(
        f"{library}:batch_norm_gradient", lambda x, _, gain, *__: (x, gain, gain), lambda x, *_: (x, x, x), "aot"
    )
    return Loops(
        f"{library}:batch_norm", lambda x, gain, *_: (x, gain, gain), lambda x, *_: (x, x, x), "aot", bprop=gradients,
        writes=(False, False, False, True, True, False),
    )  # fmt: skip


def joint_norms(conv, scaled, skip, norm, x):
    """``scaled(conv(x)) + skip(x) - norm(x)``, with batch normalisations and a depthwise 1x1 convolution without bias.

    In training in float32, where there are loops, one operator: what the three see has the means and variances of ``x``
    up to a factor for each channel, so that one look at the batch serves all.
    """
    # Within a cell that casts, a cell has no attributes of its own.
    is_one = hasattr(conv, "weight") and sees_batch(scaled) and sees_batch(skip) and sees_batch(norm)
    if not is_one or x.dtype != ms.float32 or not in_graph_mode():
        return scaled(conv(x)) + skip(x) - norm(x)
    gains, shifts = (scaled.gamma, skip.gamma, norm.gamma), (scaled.beta, skip.beta, norm.beta)
    means = scaled.moving_mean, skip.moving_mean, norm.moving_mean
    variances = scaled.moving_variance, skip.moving_variance, norm.moving_variance
    return scaled.joint(x, conv.weight, *gains, *shifts, *means, *variances, scaled.settings)[0]


def sees_batch(norm):
    """Whether a cell is batch normalisation by loops that takes the statistics of the batch."""
    return getattr(norm, "joint", None) is not None and norm.training and norm.use_batch_statistics is None


@functools.cache
def _joint_loops(library: Path) -> Loops:
    """Maps, factor, gains, shifts, running means, running variances, settings to the result, means and variances."""

    def gradients(x, factor, gain1, gain2, gain3, shift1, shift2, shift3, mean1, mean2, mean3, variance1, variance2,
                  variance3, settings, out, dout):  # fmt: skip
        found = differentiate(x, dout[0], factor, gain1, gain2, gain3, out[1], out[2], settings)
        zeros = ops.zeros_like(mean1)
        return *found, zeros, zeros, zeros, zeros, zeros, zeros, ops.zeros_like(settings)

    def kinds(x, *_):
        return (x,) * 8

    differentiate = Loops(
        f"{library}:joint_norms_gradient", lambda x, _, factor, gain, *__: (x, factor, *[gain] * 6), kinds, "aot"
    )
    return Loops(
        f"{library}:joint_norms", lambda x, _, gain, *__: (x, gain, gain), lambda x, *_: (x, x, x), "aot",
        bprop=gradients, writes=(*[False] * 8, *[True] * 6, False),
    )  # fmt: skip


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, ``(..., C)``: on the CPU by loops in C++, elsewhere by operators."""

    operator = "layer_norm"

    def __init__(self, channels, epsilon=1e-5):
        super().__init__((channels,), epsilon=epsilon)
        library = backend.compile_library(_SOURCE)
        self.loops = library and _layer_norm_loops(library, self.operator)
        self.epsilons = Tensor([epsilon], ms.float32)
        self.by_matmul = backend.average_by_matmul()
        self.average = Tensor(np.full((channels, 1), 1 / channels, np.float32))

    def construct(self, x):
        if self.loops is not None and in_graph_mode():
            gain, shift = self.gamma.astype(ms.float32), self.beta.astype(ms.float32)
            return self.loops(x.astype(ms.float32), gain, shift, self.epsilons.astype(ms.float32))[0].astype(x.dtype)
        return self.by_operators(x)

    def by_operators(self, x):
        # In eager mode on the CPU, MindSpore's gradient of its own operator fails now and then ("LayerNormGrad, the
        # index 7 is out of range of input num 7").
        if self.by_matmul:
            return self.by_products(x)
        # ops.layer_norm would compile to an operator that only Ascend has.
        out, _, _ = self.layer_norm(x, self.gamma.astype(x.dtype), self.beta.astype(x.dtype))
        return out

    def by_products(self, x):
        wide = x.astype(ms.float32).reshape(-1, x.shape[-1])  # (N, C)
        centred = wide - ops.matmul(wide, self.average)
        variance = ops.matmul(centred * centred, self.average)  # (N, 1)
        out = centred * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta
        return out.reshape(x.shape).astype(x.dtype)


class ChannelNorm(LayerNorm):
    """Layer normalisation over the channels of a map ``(B, C, H, W)``."""

    operator = "channel_norm"

    def by_operators(self, x):
        return super().by_operators(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@functools.cache
def _layer_norm_loops(library: Path, name: str) -> Loops:
    """Values, gain, shift, epsilon to the result and what its gradient needs: means and 1 / deviations of rows."""

    def shape(x, *_):
        rows = x[:-1] if name == "layer_norm" else [x[0], *x[2:]]
        return x, rows, rows

    def gradients(x, gain, shift, epsilon, out, dout):
        return *differentiate(x, dout[0], gain, out[1], out[2]), ops.zeros_like(epsilon)

    differentiate = Loops(
        f"{library}:{name}_gradient", lambda x, _, gain, *__: (x, gain, gain), lambda x, *_: (x, x, x), "aot"
    )
    return Loops(f"{library}:{name}", shape, lambda x, *_: (x, x, x), "aot", bprop=gradients)

"""Normalization in the form that is fastest on each back end; the same parameters and functions everywhere."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import backend


def BatchNorm2d(channels, eps=1e-5) -> nn.BatchNorm2d:  # noqa: N802, it stands for a class
    """``nn.BatchNorm2d`` whose running statistics move by a tenth a step."""
    cell = FusibleBatchNorm2d if backend.fuse_elementwise() else nn.BatchNorm2d
    return cell(channels, eps=eps, momentum=0.9)


class FusibleBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that is plain arithmetic in evaluation, fused with what surrounds it."""

    def construct(self, x):
        if self.training:
            return self.by_operator(x)
        gain = self.gamma * ops.rsqrt(self.moving_variance + self.eps)
        shift = self.beta - self.moving_mean * gain
        return x * gain.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)

    def by_operator(self, x):
        # What nn.BatchNorm2d does with a map, without its branches: the compiler would make ten functions of them.
        if self.use_batch_statistics is None:
            return self.bn_train(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        return super().construct(x)


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

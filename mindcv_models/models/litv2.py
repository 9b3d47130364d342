"""LITv2: fast vision transformers with HiLo attention.

Paper: Pan, Cai and Zhuang, NeurIPS 2022, https://arxiv.org/abs/2205.13213; the deformable token merging is that of
LIT, AAAI 2022, https://arxiv.org/abs/2105.14217. Attribute names are those of the official checkpoints, so that
parameters map one to one. Maps are NCHW and tokens are (B, N, C), row by row; any image size works. The four stages
run at strides 4, 8, 16 and 32 with ``C, 2C, 4C, 8C`` channels.

There is no position embedding: positions come from the zero padding of the depthwise convolutions alone, so no
parameter depends on the image size or on the window of the attention.
"""

import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from mindcv.models.layers.drop_path import DropPath
from mindcv.models.registry import register_model
from mindspore import nn, ops
from mindspore.common.initializer import Normal

from ..errors import InputError, refuse_pretrained
from ..layers import (
    GELU,
    BatchNorm2d,
    ChannelNorm,
    Conv2d,
    CrossAttention,
    DeformableConv2d,
    Dense,
    GlobalAvgPool,
    LayerNorm,
    Pointwise,
    WindowAttention,
    WindowMeans,
)
from .family import check_out_indices, image_config

__all__ = ["HiLo", "LITv2", "LITv2Features"]

# Heads have 32 channels in every variant. Stages 1 and 2 have no attention; stage 4 attends globally.
HEAD_DIM = 32
SMALLEST_IMAGE = 29


def pad_to_multiple(x, axis: int, multiple: int):
    """Append zeros on ``axis`` until its length is a multiple of ``multiple``."""
    missing = -x.shape[axis] % multiple
    if missing == 0:
        return x
    margins = ((0, 0),) * axis + ((0, missing),) + ((0, 0),) * (x.ndim - axis - 1)
    return ops.Pad(margins)(x)


def linear(in_channels: int, out_channels: int, bias: bool = True) -> Dense:
    """A linear layer, ``(..., in_channels)`` to ``(..., out_channels)``, normal with deviation 0.02 and biases of 0."""
    return Dense(in_channels, out_channels, weight_init=Normal(0.02), bias_init="zeros", has_bias=bias)


def pointwise(in_channels: int, out_channels: int) -> Pointwise:
    """The same over the channels of a map ``(B, in_channels, H, W)``."""
    return Pointwise(in_channels, out_channels, weight_init=Normal(0.02), bias_init="zeros")


class TokenNorm(LayerNorm):
    """Layer normalisation of a map ``(B, C, H, W)`` over its channels, as tokens ``(B, H * W, C)``."""

    def construct(self, x):
        b, c, h, w = x.shape
        return super().construct(x.reshape(b, c, h * w).swapaxes(1, 2))


class HiLo(nn.Cell):
    """HiLo attention (section 3.2): some heads attend within small windows, the others to the windows' averages.

    The high-frequency heads see fine detail close by; the ``int(num_heads * alpha)`` low-frequency ones see the whole
    map, averaged over each window. A map whose sides are no multiples of the window is padded with zeros on the right
    and at the bottom, and padded tokens count as keys and in the averages. With a window of 1 there is nothing local:
    all heads attend to all tokens, whatever ``alpha`` is.

    Args:
        dim: channels of the tokens, a multiple of ``num_heads``.
        num_heads: heads of both kinds together.
        qkv_bias: give the queries, keys and values a bias.
        qk_scale: factor of the scores; by default one over the root of a head's channels.
        window_size: side of the windows in tokens.
        alpha: share of the low-frequency heads, 0 to 1.

    Raises:
        InputError: the arguments do not fit together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: Optional[float] = None,
        window_size: int = 2,
        alpha: float = 0.5,
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise InputError(f"HiLo: dim={dim} does not split into num_heads={num_heads}; choose a divisor of dim.")
        if not 0 <= alpha <= 1:
            raise InputError(f"HiLo: alpha={alpha} is no share of the heads; give a number from 0 to 1.")
        if window_size < 1 or window_size != int(window_size):
            raise InputError(f"HiLo: window_size={window_size} is no side of a window; give a whole number from 1.")
        head_dim = dim // num_heads
        scale = qk_scale or head_dim**-0.5
        self.dim, self.window_size = dim, int(window_size)
        self.low_heads = int(num_heads * alpha) if window_size > 1 else num_heads
        self.high_heads = num_heads - self.low_heads
        self.low_dim, self.high_dim = self.low_heads * head_dim, self.high_heads * head_dim
        if self.low_heads:
            self.l_q = linear(dim, self.low_dim, bias=qkv_bias)
            self.l_kv = linear(dim, 2 * self.low_dim, bias=qkv_bias)
            self.averages = WindowMeans(self.window_size)
            self.to_averages = CrossAttention(self.low_heads, scale)
            self.l_proj = linear(self.low_dim, self.low_dim)
        if self.high_heads:
            self.h_qkv = linear(dim, 3 * self.high_dim, bias=qkv_bias)
            self.within_windows = WindowAttention(self.high_heads, scale, self.window_size)
            self.h_proj = linear(self.high_dim, self.high_dim)

    def construct(self, x, height, width):
        """Tokens ``(B, height * width, dim)``, row by row, to tokens of the same shape, high-frequency heads first."""
        b, n, c = x.shape
        if n != height * width:
            raise ValueError(
                f"HiLo: {n} tokens are not a map of {height} x {width}; pass the height and width of the map."
            )
        padded = x.reshape(b, height, width, c)
        padded = pad_to_multiple(pad_to_multiple(padded, 1, self.window_size), 2, self.window_size)
        if self.low_heads == 0:
            return self.high(padded, height, width)
        if self.high_heads == 0:
            return self.low(x, padded)
        return ops.concat((self.high(padded, height, width), self.low(x, padded)), -1)

    def high(self, padded, height, width):
        """Attention within each window, ``(B, Hp, Wp, C)`` to ``(B, H * W, high_dim)``."""
        out = self.within_windows(self.h_qkv(padded))
        if padded.shape[1:3] != (height, width):
            out = out[:, :height, :width]
        return self.h_proj(out).reshape(padded.shape[0], height * width, self.high_dim)

    def low(self, x, padded):
        """Attention of every token to the windows' averages, ``(B, N, C)`` to ``(B, N, low_dim)``."""
        averages = self.averages(padded) if self.window_size > 1 else x
        return self.l_proj(self.to_averages(self.l_q(x), self.l_kv(averages)))

    def flops(self, height: int, width: int) -> int:
        """Multiply-accumulates for one map, as the authors count them: projections and attention, on the padded map."""
        ws = self.window_size
        windows = -(-height // ws) * -(-width // ws)
        tokens = windows * ws * ws
        high = 3 * tokens * self.dim * self.high_dim + 2 * windows * ws**4 * self.high_dim + tokens * self.high_dim**2
        low = (tokens + 2 * windows) * self.dim * self.low_dim + 2 * tokens * windows * self.low_dim
        low += tokens * self.low_dim**2
        return high + low


class DWConv(nn.Cell):
    """A depthwise 3x3 convolution with zero padding, ``(B, channels, H, W)`` to same."""

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = Conv2d(
            channels, channels, 3, group=channels, has_bias=True,
            weight_init=Normal(math.sqrt(2 / 9)), bias_init="zeros",
        )  # fmt: skip

    def construct(self, x):
        return self.dwconv(x)


class DWMlp(nn.Cell):
    """Two linear layers with a depthwise convolution, then GELU, between them: ``(B, dim, H, W)`` to same.

    Args:
        drop_rate: of the dropout after each linear layer.
    """

    def __init__(self, dim: int, drop_rate: float):
        super().__init__()
        self.fc1 = pointwise(dim, 4 * dim)
        self.dwconv = DWConv(4 * dim)
        self.act = GELU()
        self.fc2 = pointwise(4 * dim, dim)
        self.drop = nn.Dropout(p=drop_rate) if drop_rate else nn.Identity()

    def construct(self, x):
        x = self.drop(self.act(self.dwconv(self.fc1(x))))
        return self.drop(self.fc2(x))


class ConvFFNBlock(nn.Cell):
    """The MLP alone, with normalisation before and a residual (stages 1 and 2): ``(B, dim, H, W)`` to same.

    Args:
        drop_rate, drop_path_rate: of the dropout in the MLP, and of stochastic depth.
    """

    def __init__(self, dim: int, drop_rate: float, drop_path_rate: float):
        super().__init__()
        self.dim = dim
        self.norm2 = ChannelNorm(dim)
        self.mlp = DWMlp(dim, drop_rate)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def construct(self, x):
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def flops(self, height: int, width: int) -> int:
        """Multiply-accumulates as the authors count them: linear layers, depthwise convolution with bias, norm."""
        return height * width * self.dim * (8 * self.dim + 4 * 10 + 1)


class Block(ConvFFNBlock):
    """HiLo attention, then the MLP, each with normalisation before and a residual (stages 3 and 4).

    ``(B, dim, H, W)`` to same.

    Args:
        window_size, alpha: of :class:`HiLo`.
        drop_rate, drop_path_rate: of the dropout in the MLP, and of stochastic depth.
    """

    def __init__(self, dim: int, window_size: int, alpha: float, drop_rate: float, drop_path_rate: float):
        super().__init__(dim, drop_rate, drop_path_rate)
        self.norm1 = TokenNorm(dim)
        self.attn = HiLo(dim, dim // HEAD_DIM, qkv_bias=True, window_size=window_size, alpha=alpha)

    def construct(self, x):
        b, c, h, w = x.shape
        tokens = self.attn(self.norm1(x), h, w)  # (B, N, C)
        x = x + self.drop_path(tokens.swapaxes(1, 2).reshape(b, c, h, w))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def flops(self, height: int, width: int) -> int:
        """Multiply-accumulates as the authors count them: those of the MLP, a norm and the attention."""
        return super().flops(height, width) + height * width * self.dim + self.attn.flops(height, width)


class DTM(nn.Cell):
    """Deformable token merging, ``(B, dim, H, W)`` to ``(B, 2 * dim, floor(H / 2), floor(W / 2))``.

    An odd last row or column is dropped.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.dconv = DeformableConv2d(dim, 2 * dim, 2, stride=2)
        self.norm_layer = BatchNorm2d(2 * dim)
        self.act = GELU()

    def construct(self, x):
        return self.act(self.norm_layer(self.dconv(x)))

    def flops(self, height: int, width: int) -> int:
        """Multiply-accumulates as the authors count them: with 12 channels of offsets, where there are 8."""
        return (height // 2) * (width // 2) * (12 * (4 * self.dim + 1) + 2 * self.dim * (4 * self.dim + 2))


class PatchEmbed(nn.Cell):
    """Patches of 4x4 pixels as channels, normalised: ``(B, in_channels, H, W)`` to
    ``(B, dim, ceil(H / 4), ceil(W / 4))``.
    """

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 4, 4, pad_mode="pad", has_bias=True)
        self.norm = ChannelNorm(dim)

    def construct(self, x):
        x = pad_to_multiple(pad_to_multiple(x, 2, 4), 3, 4)
        return self.norm(self.proj(x))


class Stage(nn.Cell):
    """The blocks of one resolution, then the merging of tokens.

    Args:
        blocks: cells from ``(B, C, H, W)`` to same.
        downsample: the merging, or None in the last stage.
    """

    def __init__(self, blocks: Sequence[nn.Cell], downsample: Optional[nn.Cell]):
        super().__init__()
        self.blocks = nn.SequentialCell(blocks)
        self.downsample = downsample or nn.Identity()

    def construct(self, x):
        return self.downsample(self.blocks(x))


@dataclass(frozen=True)
class Variant:
    """What distinguishes one LITv2 from another (table 8).

    Attributes:
        dim: channels of the first stage, which double with each.
        depths: blocks of the four stages.
        image_size, crop_pct: side of the images in evaluation, and its part of the resized image's side.
    """

    dim: int
    depths: Tuple[int, int, int, int]
    image_size: int = 224
    crop_pct: float = 0.875

    @property
    def dims(self) -> Tuple[int, ...]:
        return tuple(self.dim * 2**stage for stage in range(4))


VARIANTS = {
    "litv2_s": Variant(96, (2, 2, 6, 2)),
    "litv2_m": Variant(96, (2, 2, 18, 2)),
    "litv2_b": Variant(128, (2, 2, 18, 2)),
    "litv2_b_384": Variant(128, (2, 2, 18, 2), image_size=384, crop_pct=1.0),
}

default_cfgs = {
    name: image_config((variant.image_size, variant.image_size), "patch_embed.proj", variant.crop_pct)
    for name, variant in VARIANTS.items()
}


class _Trunk(nn.Cell):
    """Patch embedding and stages: what the classifier and the backbone share."""

    def __init__(self, variant: Variant, in_channels: int, alpha: float, window_size: int, drop_rate: float,
                 drop_path_rate: float):  # fmt: skip
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, variant.dim)
        rates = iter(np.linspace(0, drop_path_rate, sum(variant.depths)).tolist())
        stages = []
        for stage, (depth, dim) in enumerate(zip(variant.depths, variant.dims)):
            blocks = []
            for _ in range(depth):
                if stage < 2:
                    blocks.append(ConvFFNBlock(dim, drop_rate, next(rates)))
                else:
                    blocks.append(Block(dim, window_size if stage == 2 else 1, alpha, drop_rate, next(rates)))
            stages.append(Stage(blocks, DTM(dim) if stage < 3 else None))
        self.layers = nn.CellList(stages)

    def embed(self, x):
        if min(x.shape[2:]) < SMALLEST_IMAGE:
            raise ValueError(
                f"LITv2: images of {x.shape[2]} x {x.shape[3]} leave stage 4 no tokens; give at least "
                f"{SMALLEST_IMAGE} x {SMALLEST_IMAGE}."
            )
        return self.patch_embed(x)

    def flops(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image as the authors count them (published as FLOPs)."""
        height, width = -(-height // 4), -(-width // 4)
        total = height * width * (self.patch_embed.proj.weight.size + self.patch_embed.proj.out_channels)
        for stage in self.layers:
            total += sum(block.flops(height, width) for block in stage.blocks)
            if isinstance(stage.downsample, DTM):
                total += stage.downsample.flops(height, width)
                height, width = height // 2, width // 2
        return total

    def layer_groups(self) -> List[Tuple[str, ...]]:
        """Names of the cells of each layer, from the images on, for layer-wise learning rates."""
        groups = [("patch_embed",)]
        for index, stage in enumerate(self.layers):
            groups += [(f"layers.{index}.blocks.{i}",) for i in range(len(stage.blocks))]
            groups.append((f"layers.{index}.downsample",))
        return groups[:-1] + [(name,) for name in ("norm", "head") if hasattr(self, name)]

    def no_weight_decay(self) -> List[str]:
        """Names of the parameters that are not decayed: everything one-dimensional (norms and biases)."""
        return [p.name for p in self.trainable_params() if p.ndim <= 1]

    def lr_scale(self) -> Dict[str, float]:
        """Factors of the learning rate by shell-style pattern of parameter names; 1 for all others.

        The offsets' weights learn a hundred times slower, their biases do not. The authors scale the peak alone: the
        rates at the start of the warm-up and at the end of the decay are the same for every parameter.
        """
        return {"*.conv_offset.weight": 0.01}


class LITv2(_Trunk):
    """The classifier: ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``, or ``(B, 8 * C)`` for 0 classes.

    Args:
        alpha: share of the low-frequency heads in stage 3, 0 to 1.
        window_size: window of HiLo in stage 3; no parameter depends on it.
        drop_rate: of the dropout in the MLPs.
        drop_path_rate: of stochastic depth in the last block; it rises from 0 in the first.
    """

    def __init__(self, variant: Variant, num_classes=1000, in_channels=3, alpha=0.9, window_size=2,
                 drop_rate=0.0, drop_path_rate=0.0):  # fmt: skip
        super().__init__(variant, in_channels, alpha, window_size, drop_rate, drop_path_rate)
        dim = variant.dims[-1]
        self.num_features = dim
        self.norm = ChannelNorm(dim)
        self.pool = GlobalAvgPool()
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new head for ``num_classes`` classes; 0 leaves it out."""
        self.compile_cache.clear()
        self.head = linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def construct(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        x = self.embed(x)
        for stage in self.layers:
            x = stage(x)
        return x  # (B, 8 * C, H / 32, W / 32)

    def forward_head(self, x):
        return self.head(self.pool(self.norm(x)))

    def flops(self, height: int, width: int) -> int:
        tail = self.norm.gamma.size * -(-height // 4) * -(-width // 4) // 16
        return super().flops(height, width) + tail + getattr(self.head, "weight", np.empty(0)).size


# Which stages' maps are normalised, in each of the official forms.
DENSE_NORMS = {None: (), "detection": (1, 2, 3), "segmentation": (0, 1, 2, 3)}


class LITv2Features(_Trunk):
    """The backbone for dense prediction: maps ``(B, C_i, H / s_i, W / s_i)``, strides ``s`` of 4, 8, 16 and 32.

    The maps are those before each stage's token merging.

    Args:
        out_indices: which of the four maps to return.
        dense: normalise maps as the official ``"detection"`` backbones do (all but the first, under the names
            ``norm1`` to ``norm3``) or the ``"segmentation"`` ones (``norm0`` too); None leaves them as they are.
        window_size: window of HiLo in stage 3; the official detectors use 2 or 4.

    Attributes:
        out_channels, out_strides: width and stride of each returned map.
        output_norms: names of the norms of the maps, which a classifier's checkpoint does not have.
    """

    def __init__(self, variant: Variant, out_indices=(0, 1, 2, 3), dense=None, in_channels=3, alpha=0.9, window_size=2,
                 drop_rate=0.0, drop_path_rate=0.0):  # fmt: skip
        check_out_indices("LITv2", out_indices)
        if dense not in DENSE_NORMS:
            raise InputError(f'dense={dense!r} is no form of the backbone; choose "detection", "segmentation" or None.')
        super().__init__(variant, in_channels, alpha, window_size, drop_rate, drop_path_rate)
        self.out_indices = tuple(out_indices)
        self.out_channels = [variant.dims[i] for i in out_indices]
        self.out_strides = [4 * 2**i for i in out_indices]
        self.output_norms = tuple(f"norm{i}" for i in DENSE_NORMS[dense])
        for i in DENSE_NORMS[dense]:
            setattr(self, f"norm{i}", ChannelNorm(variant.dims[i]))
        self.norms = [getattr(self, f"norm{i}", None) or nn.Identity() for i in range(4)]

    def construct(self, x):
        x = self.embed(x)
        maps = ()
        for index, stage in enumerate(self.layers):
            x = stage.blocks(x)
            maps += (self.norms[index](x),)
            if index < 3:
                x = stage.downsample(x)
        return tuple([maps[index] for index in self.out_indices])


def _create(name, pretrained=False, features_only=False, num_classes=1000, **kwargs):
    refuse_pretrained(name, pretrained)
    if features_only:
        return LITv2Features(VARIANTS[name], **kwargs)
    return LITv2(VARIANTS[name], num_classes=num_classes, **kwargs)


@register_model
def litv2_s(**kwargs) -> nn.Cell:
    """LITv2-S: 27.8 M parameters; options as in :class:`LITv2` and :class:`LITv2Features`."""
    return _create("litv2_s", **kwargs)


@register_model
def litv2_m(**kwargs) -> nn.Cell:
    """LITv2-M: 48.8 M parameters."""
    return _create("litv2_m", **kwargs)


@register_model
def litv2_b(**kwargs) -> nn.Cell:
    """LITv2-B: 86.5 M parameters."""
    return _create("litv2_b", **kwargs)


@register_model
def litv2_b_384(**kwargs) -> nn.Cell:
    """LITv2-B for images of 384 x 384: the same parameters."""
    return _create("litv2_b_384", **kwargs)

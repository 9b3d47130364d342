"""FastViT: a fast hybrid vision transformer using structural reparameterization.

Paper: Vasu et al., ICCV 2023, https://arxiv.org/abs/2303.14189. Attribute names are those of the official
checkpoints, so that parameters map one to one. Maps are NCHW; any image size works, and ``C1..C4`` are the widths of
the four stages, which run at strides 4, 8, 16 and 32.

A network is built in its training form. :func:`mindcv_models.reparameterize` returns the equivalent inference form,
in which each cell with a ``fuse`` method has become a single convolution.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import List, Optional, Tuple

import numpy as np
from mindcv.models.layers.drop_path import DropPath
from mindcv.models.registry import register_model
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal

from ..errors import refuse_pretrained
from ..layers import (
    GELU,
    BatchNorm2d,
    Conv2d,
    Dense,
    FusedMLP,
    GlobalAvgPool,
    Kernel,
    ScaledResidual,
    SelfAttention,
    conv_norm,
    joint_norms,
)
from .family import check_out_indices, image_config

__all__ = ["FastViT", "FastViTFeatures"]


def conv2d(in_channels: int, out_channels: int, kernel_size: int, stride=1, groups=1, bias=False, init=None):
    """A convolution with symmetric zero padding of half the kernel.

    Args:
        init: initializer of the weight, with a bias of zeros; None for PyTorch's default of both.
    """
    return Conv2d(
        in_channels, out_channels, kernel_size, stride,
        group=groups, has_bias=bias, weight_init=init, bias_init="zeros" if init else None,
    )  # fmt: skip


def layer_scale(channels: int, value: float) -> Parameter:
    """A factor for each channel of a map, ``(channels, 1, 1)``, all ``value`` at first."""
    return Parameter(Tensor(np.full((channels, 1, 1), value, np.float32)))


class ConvNorm(nn.Cell):
    """Convolution without bias, then batch normalisation: ``(B, in_channels, H, W)`` to ``(B, out_channels, ...)``.

    Args: see :func:`conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride=1, groups=1, init=None):
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, init=init)
        self.bn = BatchNorm2d(out_channels)

    def kernel(self) -> Kernel:
        """The convolution that this is in evaluation mode."""
        return Kernel.of_conv(self.conv).then_norm(self.bn)

    def construct(self, x):
        return conv_norm(self.conv, self.bn, x)


class SkipNorm(nn.Cell):
    """Batch normalisation alone, ``(B, channels, H, W)`` to same: a MobileOne block with only its skip branch."""

    def __init__(self, channels: int):
        super().__init__()
        self.rbr_skip = BatchNorm2d(channels)

    def kernel(self, size: int, groups: int) -> Kernel:
        """This as a convolution of ``size`` x ``size`` in ``groups`` groups, in evaluation mode."""
        return Kernel.identity(self.rbr_skip.num_features, size, groups).then_norm(self.rbr_skip)

    def construct(self, x):
        return self.rbr_skip(x)


class SqueezeExcite(nn.Cell):
    """Channel attention from the map's mean (Hu et al., CVPR 2018), ``(B, channels, H, W)`` to same.

    Between its two layers are 1/16 of the channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.pool = GlobalAvgPool(keep_dims=True)
        self.reduce = conv2d(channels, int(channels * 0.0625), 1, bias=True)
        self.expand = conv2d(int(channels * 0.0625), channels, 1, bias=True)

    def construct(self, x):
        gate = self.expand(ops.relu(self.reduce(self.pool(x))))  # (B, C, 1, 1)
        return x * ops.sigmoid(gate)


class FusedBlock(nn.Cell):
    """What a reparameterized cell becomes: one convolution with bias, then what followed the branches.

    Args:
        conv: the convolution, with bias.
        se, activation: cells that follow it, or None.
    """

    def __init__(self, conv: Conv2d, se: Optional[nn.Cell] = None, activation: Optional[nn.Cell] = None):
        super().__init__()
        self.reparam_conv = conv
        self.se = se or nn.Identity()
        self.activation = activation or nn.Identity()

    def construct(self, x):
        return self.activation(self.se(self.reparam_conv(x)))


class MobileOneBlock(nn.Cell):
    """A sum of linear branches, then squeeze and excitation, then GELU (section 3.2).

    The branches are a convolution, a 1x1 convolution if the kernel is larger than that, and the input itself where
    shapes allow; each is followed by its own batch normalisation. Maps ``(B, in_channels, H, W)`` to
    ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.

    Args:
        kernel_size: side of the kernel, odd.
        groups: of the convolutions; ``in_channels`` for depthwise ones.
        se: whether squeeze and excitation follow.
        act: whether GELU follows.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride=1, groups=1, se=False, act=True):
        super().__init__()
        self.rbr_conv = nn.CellList([ConvNorm(in_channels, out_channels, kernel_size, stride, groups)])
        self.rbr_scale = ConvNorm(in_channels, out_channels, 1, stride, groups) if kernel_size > 1 else None
        has_skip = in_channels == out_channels and stride == 1
        self.rbr_skip = BatchNorm2d(in_channels) if has_skip else None
        self.se = SqueezeExcite(out_channels) if se else nn.Identity()
        self.activation = GELU() if act else nn.Identity()

    def kernel(self) -> Kernel:
        """The sum of the branches as one convolution, in evaluation mode."""
        conv = self.rbr_conv[0].conv
        size = conv.kernel_size[0]
        kernel = self.rbr_conv[0].kernel()
        if self.rbr_scale is not None:
            kernel += self.rbr_scale.kernel().pad(size)
        if self.rbr_skip is not None:
            kernel += Kernel.identity(conv.in_channels, size, conv.group).then_norm(self.rbr_skip)
        return kernel

    def fuse(self) -> nn.Cell:
        return FusedBlock(self.kernel().conv(like=self.rbr_conv[0].conv), self.se, self.activation)

    def construct(self, x):
        out = self.rbr_conv[0](x)
        if self.rbr_scale is not None:
            out = out + self.rbr_scale(x)
        if self.rbr_skip is not None:
            out = out + self.rbr_skip(x)
        return self.activation(self.se(out))


class RepMixer(nn.Cell):
    """Token mixing by a depthwise convolution whose skip connection can be fused away (section 3.2.1).

    ``(B, dim, H, W)`` to same.

    Args:
        layer_scale_init: initial scale of the branch.
    """

    def __init__(self, dim: int, layer_scale_init: float):
        super().__init__()
        self.norm = SkipNorm(dim)
        self.mixer = MobileOneBlock(dim, dim, 3, groups=dim, act=False)
        self.layer_scale = layer_scale(dim, layer_scale_init)
        self.residual = ScaledResidual()

    def fuse(self) -> nn.Cell:
        conv = self.mixer.rbr_conv[0].conv
        size, groups = conv.kernel_size[0], conv.group
        mixed = (self.mixer.kernel() - self.norm.kernel(size, groups)).scale(self.layer_scale.asnumpy())
        return FusedBlock((Kernel.identity(conv.in_channels, size, groups) + mixed).conv(like=conv))

    def construct(self, x):
        mixer = self.mixer  # without squeeze and excitation and GELU
        scale = mixer.rbr_scale
        rest = joint_norms(scale.conv, scale.bn, mixer.rbr_skip, self.norm.rbr_skip, x)
        return self.residual(x, self.layer_scale, mixer.rbr_conv[0](x) + rest)


class Attention(nn.Cell):
    """Multi-head self-attention over the positions of a map, ``(B, dim, H, W)`` to same (section 3.2.3).

    Args:
        dim: a multiple of the 32 channels of a head.
    """

    head_dim = 32

    def __init__(self, dim: int):
        super().__init__()
        self.attention = SelfAttention(dim // self.head_dim, self.head_dim**-0.5)
        self.qkv = Dense(dim, 3 * dim, weight_init=Normal(0.02), has_bias=False)
        self.proj = Dense(dim, dim, weight_init=Normal(0.02), bias_init="zeros")

    def construct(self, x):
        b, c, h, w = x.shape
        tokens = x.reshape(b, c, h * w).transpose(0, 2, 1)  # (B, N, C)
        tokens = self.attention(self.qkv(tokens))
        return self.proj(tokens).transpose(0, 2, 1).reshape(b, c, h, w)


class ConvFFN(nn.Cell):
    """Depthwise 7x7 convolution with batch normalisation, then a two-layer MLP of 1x1 convolutions.

    ``(B, dim, H, W)`` to same.

    Args:
        hidden_dim: channels between the two layers.
        drop_rate: of the dropout after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float):
        super().__init__()
        self.conv = ConvNorm(dim, dim, 7, groups=dim, init=Normal(0.02))
        self.fc1 = conv2d(dim, hidden_dim, 1, bias=True, init=Normal(0.02))
        self.act = GELU()
        self.fc2 = conv2d(hidden_dim, dim, 1, bias=True, init=Normal(0.02))
        self.drop = nn.Dropout(p=drop_rate) if drop_rate else nn.Identity()
        self.fused = FusedMLP(pointwise=True)

    def fuses(self):
        """Whether :meth:`add_to` runs in the graph that is compiled."""
        return self.fused.runs(self.training) and hasattr(self.fc1, "weight")  # not within a cell that casts

    def add_to(self, residual, scale, x):
        """``residual + scale * self(x)``, with the layers in one operator."""
        layers = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        return self.fused(self.conv(x), *layers, scale, residual)

    def construct(self, x):
        x = self.drop(self.act(self.fc1(self.conv(x))))
        return self.drop(self.fc2(x))


class RepMixerBlock(nn.Cell):
    """RepMixer, then ConvFFN with a scaled residual: ``(B, dim, H, W)`` to same.

    Args:
        mlp_ratio: channels within ConvFFN over ``dim``.
        drop_rate, drop_path_rate: of the dropout in ConvFFN, and of stochastic depth.
        layer_scale_init: initial scale of both branches.
    """

    def __init__(self, dim: int, mlp_ratio: int, drop_rate: float, drop_path_rate: float, layer_scale_init: float):
        super().__init__()
        self.token_mixer = RepMixer(dim, layer_scale_init)
        self.convffn = ConvFFN(dim, int(dim * mlp_ratio), drop_rate)
        self.layer_scale = layer_scale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.residual = ScaledResidual()

    def construct(self, x):
        x = self.token_mixer(x)
        if self.convffn.fuses():
            return self.convffn.add_to(x, self.layer_scale, x)
        return self.residual(x, self.layer_scale, self.drop_path(self.convffn(x)))


class AttentionBlock(nn.Cell):
    """Attention after batch normalisation, then ConvFFN, each with a scaled residual: ``(B, dim, H, W)`` to same.

    Args: see :class:`RepMixerBlock`.
    """

    def __init__(self, dim: int, mlp_ratio: int, drop_rate: float, drop_path_rate: float, layer_scale_init: float):
        super().__init__()
        self.norm = BatchNorm2d(dim)
        self.token_mixer = Attention(dim)
        self.convffn = ConvFFN(dim, int(dim * mlp_ratio), drop_rate)
        self.layer_scale_1 = layer_scale(dim, layer_scale_init)
        self.layer_scale_2 = layer_scale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.residual = ScaledResidual()

    def construct(self, x):
        x = self.residual(x, self.layer_scale_1, self.drop_path(self.token_mixer(self.norm(x))))
        if self.convffn.fuses():
            return self.convffn.add_to(x, self.layer_scale_2, x)
        return self.residual(x, self.layer_scale_2, self.drop_path(self.convffn(x)))


class RepCPE(nn.Cell):
    """Conditional position encoding: a depthwise 7x7 convolution added to its input (section 3.2.3).

    ``(B, dim, H, W)`` to same.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.pe = conv2d(dim, dim, 7, groups=dim, bias=True)

    def fuse(self) -> nn.Cell:
        kernel = Kernel.of_conv(self.pe)
        return FusedBlock((kernel + Kernel.identity(self.pe.in_channels, 7, self.pe.group)).conv(like=self.pe))

    def construct(self, x):
        return x + self.pe(x)


class FusedLargeKernelConv(nn.Cell):
    """What :class:`LargeKernelConv` becomes: one convolution with bias, under its official name."""

    def __init__(self, conv: Conv2d):
        super().__init__()
        self.lkb_reparam = conv

    def construct(self, x):
        return self.lkb_reparam(x)


class LargeKernelConv(nn.Cell):
    """Depthwise 7x7 convolution of stride 2 beside a 3x3 one (section 3.2.2). Linear: no activation follows.

    ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / 2), ceil(W / 2))``; ``out_channels`` is a multiple of
    ``in_channels``, the number of groups.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.lkb_origin = ConvNorm(in_channels, out_channels, 7, stride=2, groups=in_channels)
        self.small_conv = ConvNorm(in_channels, out_channels, 3, stride=2, groups=in_channels)

    def fuse(self) -> nn.Cell:
        kernel = self.lkb_origin.kernel() + self.small_conv.kernel().pad(7)
        return FusedLargeKernelConv(kernel.conv(like=self.lkb_origin.conv))

    def construct(self, x):
        return self.lkb_origin(x) + self.small_conv(x)


class PatchEmbed(nn.Cell):
    """Halve the map, ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / 2), ceil(W / 2))``."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.SequentialCell(
            LargeKernelConv(in_channels, out_channels), MobileOneBlock(out_channels, out_channels, 1)
        )

    def construct(self, x):
        return self.proj(x)


@dataclass(frozen=True)
class Variant:
    """What distinguishes one FastViT from another (table 2).

    Attributes:
        depths, dims: blocks and channels of the four stages.
        mlp_ratio: channels within ConvFFN over those of its block.
        attention: whether stage 4 attends; the others never do.
        layer_scale_init: initial scale of the residual branches.
        crop_pct: side of the evaluation crop over that of the resized image.
    """

    depths: Tuple[int, int, int, int]
    dims: Tuple[int, int, int, int]
    mlp_ratio: int = 4
    attention: bool = False
    layer_scale_init: float = 1e-5
    crop_pct: float = 0.9


VARIANTS = {
    "fastvit_t8": Variant((2, 2, 4, 2), (48, 96, 192, 384), mlp_ratio=3),
    "fastvit_t12": Variant((2, 2, 6, 2), (64, 128, 256, 512), mlp_ratio=3),
    "fastvit_s12": Variant((2, 2, 6, 2), (64, 128, 256, 512)),
    "fastvit_sa12": Variant((2, 2, 6, 2), (64, 128, 256, 512), attention=True),
    "fastvit_sa24": Variant((4, 4, 12, 4), (64, 128, 256, 512), attention=True),
    "fastvit_sa36": Variant((6, 6, 18, 6), (64, 128, 256, 512), attention=True, layer_scale_init=1e-6, crop_pct=0.95),
    "fastvit_ma36": Variant((6, 6, 18, 6), (76, 152, 304, 608), attention=True, layer_scale_init=1e-6, crop_pct=0.95),
}

default_cfgs = {
    name: image_config((256, 256), "patch_embed.0.rbr_conv.0.conv", variant.crop_pct)
    for name, variant in VARIANTS.items()
}


def _stages(variant: Variant, drop_rate: float, drop_path_rate: float) -> Tuple[nn.SequentialCell, Tuple[int, ...]]:
    """The cells after the stem, and the indices of those that end a stage."""
    rates = iter(np.linspace(0, drop_path_rate, sum(variant.depths)).tolist())
    cells, stage_ends = [], []
    for stage, (depth, dim) in enumerate(zip(variant.depths, variant.dims)):
        if stage > 0:
            cells.append(PatchEmbed(variant.dims[stage - 1], dim))
        attends = variant.attention and stage == 3
        if attends:
            cells.append(RepCPE(dim))
        block = partial(
            AttentionBlock if attends else RepMixerBlock,
            dim, variant.mlp_ratio, drop_rate, layer_scale_init=variant.layer_scale_init,
        )  # fmt: skip
        stage_ends.append(len(cells))
        cells.append(nn.SequentialCell([block(drop_path_rate=next(rates)) for _ in range(depth)]))
    return nn.SequentialCell(cells), tuple(stage_ends)


class _Trunk(nn.Cell):
    """``patch_embed`` and ``network``, which the classifier and the backbone share."""

    def __init__(self, variant: Variant, in_channels: int, drop_rate: float, drop_path_rate: float):
        super().__init__()
        first = variant.dims[0]
        self.patch_embed = nn.SequentialCell(
            MobileOneBlock(in_channels, first, 3, stride=2),
            MobileOneBlock(first, first, 3, stride=2, groups=first),
            MobileOneBlock(first, first, 1),
        )
        self.network, self.stage_ends = _stages(variant, drop_rate, drop_path_rate)

    def layer_groups(self) -> List[Tuple[str, ...]]:
        """Names of the cells of each layer, from the images on, for layer-wise learning rates."""
        groups = [(f"patch_embed.{i}",) for i in range(len(self.patch_embed))]
        for index, cell in enumerate(self.network):
            is_stage = isinstance(cell, nn.SequentialCell)
            groups += [(f"network.{index}.{i}",) for i in range(len(cell))] if is_stage else [(f"network.{index}",)]
        return groups + [(name,) for name in ("conv_exp", "head") if hasattr(self, name)]


class FastViT(_Trunk):
    """The classifier: ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``, or ``(B, 2 * C4)`` for 0 classes.

    Args:
        drop_rate: of the dropout in the MLPs.
        drop_path_rate: of stochastic depth in the last block; it rises from 0 in the first.
    """

    def __init__(self, variant: Variant, num_classes=1000, in_channels=3, drop_rate=0.0, drop_path_rate=0.0):
        super().__init__(variant, in_channels, drop_rate, drop_path_rate)
        dim = variant.dims[-1]
        self.num_features = 2 * dim
        self.conv_exp = MobileOneBlock(dim, 2 * dim, 3, groups=dim, se=True)
        self.pool = GlobalAvgPool()
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new head for ``num_classes`` classes; 0 leaves it out."""
        self.compile_cache.clear()
        self.head = nn.Identity()
        if num_classes > 0:
            self.head = nn.Dense(self.num_features, num_classes, weight_init=Normal(0.02), bias_init="zeros")

    def construct(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        return self.conv_exp(self.network(self.patch_embed(x)))  # (B, 2 * C4, H / 32, W / 32)

    def forward_head(self, x):
        return self.head(self.pool(x))


class FastViTFeatures(_Trunk):
    """The backbone for dense prediction: maps ``(B, C_i, H / s_i, W / s_i)``, strides ``s`` of 4, 8, 16 and 32.

    Args:
        out_indices: which of the four maps to return.
        fork_feat: give each map its own batch normalisation, under the official names ``norm0``, ``norm2``, ... .
        official_taps: take the last map where the official release does. With attention that is before the last
            stage (which is then unused), a defect that its published dense models share.

    Attributes:
        out_channels, out_strides: width and stride of each returned map.
        output_norms: names of the norms of the maps, which a classifier's checkpoint does not have.
    """

    def __init__(self, variant: Variant, out_indices=(0, 1, 2, 3), fork_feat=False, official_taps=False,
                 in_channels=3, drop_rate=0.0, drop_path_rate=0.0):  # fmt: skip
        check_out_indices("FastViT", out_indices)
        super().__init__(variant, in_channels, drop_rate, drop_path_rate)
        ends = (0, 2, 4, 6) if official_taps else self.stage_ends
        self.taps = tuple(ends[i] for i in out_indices)
        self.out_channels = [variant.dims[i] for i in out_indices]
        self.out_strides = [4 * 2**i for i in out_indices]
        self.output_norms = tuple(f"norm{2 * i}" for i in range(4)) if fork_feat else ()
        for name, dim in zip(self.output_norms, variant.dims):
            setattr(self, name, BatchNorm2d(dim))
        self.norms = [getattr(self, f"norm{2 * i}") if fork_feat else nn.Identity() for i in out_indices]

    def construct(self, x):
        x = self.patch_embed(x)
        maps = ()
        for index, cell in enumerate(self.network):
            x = cell(x)
            for norm, tap in zip(self.norms, self.taps):
                if index == tap:
                    maps += (norm(x),)
        return maps


def _create(name, pretrained=False, features_only=False, num_classes=1000, layer_scale_init=None, **kwargs):
    """``layer_scale_init``: initial scale of the residual branches, rather than the variant's own."""
    refuse_pretrained(name, pretrained)
    variant = VARIANTS[name]
    if layer_scale_init is not None:
        variant = replace(variant, layer_scale_init=layer_scale_init)
    if features_only:
        return FastViTFeatures(variant, **kwargs)
    return FastViT(variant, num_classes=num_classes, **kwargs)


@register_model
def fastvit_t8(**kwargs) -> nn.Cell:
    """FastViT-T8: 4.0 M parameters; options as in :class:`FastViT` and :class:`FastViTFeatures`."""
    return _create("fastvit_t8", **kwargs)


@register_model
def fastvit_t12(**kwargs) -> nn.Cell:
    """FastViT-T12: 7.6 M parameters."""
    return _create("fastvit_t12", **kwargs)


@register_model
def fastvit_s12(**kwargs) -> nn.Cell:
    """FastViT-S12: 9.5 M parameters."""
    return _create("fastvit_s12", **kwargs)


@register_model
def fastvit_sa12(**kwargs) -> nn.Cell:
    """FastViT-SA12: 11.6 M parameters, attention in the last stage."""
    return _create("fastvit_sa12", **kwargs)


@register_model
def fastvit_sa24(**kwargs) -> nn.Cell:
    """FastViT-SA24: 21.6 M parameters, attention in the last stage."""
    return _create("fastvit_sa24", **kwargs)


@register_model
def fastvit_sa36(**kwargs) -> nn.Cell:
    """FastViT-SA36: 31.5 M parameters, attention in the last stage."""
    return _create("fastvit_sa36", **kwargs)


@register_model
def fastvit_ma36(**kwargs) -> nn.Cell:
    """FastViT-MA36: 44.1 M parameters, attention in the last stage."""
    return _create("fastvit_ma36", **kwargs)

"""FasterViT: fast vision transformers with hierarchical attention.

Paper: Hatamizadeh et al., ICLR 2024, https://arxiv.org/abs/2306.06189. Attribute names are those of the official
checkpoints, so that parameters map one to one. Maps are NCHW; tokens are ``(batch, tokens, channels)``.

Two convolutional levels, then two of transformers. A transformer level cuts its map into windows of ``w`` x ``w``
tokens; in a hierarchical one each window also owns ``c`` x ``c`` carrier tokens, which attend to all others of the
image before each joins its window.

One network takes any image size. Windows, carriers and position tables follow from the map's size when the graph is
compiled, which happens anew for each size: the map is padded with zeros at the right and bottom to whole windows and
cropped afterwards. The result is that of the official any-resolution model built for that size, which also fixes what
it does with carriers on grids that are not square; and where that model fails (sides such as 225, of which its
bookkeeping rounds the size down and its convolutions round it up), that of the map's true size. ``resolution`` only
decides which parameters exist: ``hat_pos_embed`` is for square grids of windows, and carriers for more than one window.

:func:`mindcv_models.reparameterize` returns the deployment form: position tables for ``resolution`` are stored instead
of computed in each call. On another size the network computes them as before.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from mindcv.models.layers.drop_path import DropPath
from mindcv.models.registry import register_model
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal

from ..errors import InputError, refuse_pretrained
from ..layers import (
    GELU,
    BatchNorm2d,
    ChannelNorm,
    Conv2d,
    Dense,
    FusedMLP,
    GlobalAvgPool,
    LayerNorm,
    SelfAttention,
    conv_norm,
)
from .family import check_out_indices, image_config

__all__ = ["FasterViT", "FasterViTFeatures"]


def conv3x3(in_channels: int, out_channels: int, stride=1, groups=1, bias=False) -> Conv2d:
    """A 3x3 convolution with one pixel of zero padding and PyTorch's default initialisation."""
    return Conv2d(in_channels, out_channels, 3, stride, group=groups, has_bias=bias)


def dense(in_channels: int, out_channels: int, bias: bool = True) -> Dense:
    """A linear layer, ``(..., in_channels)`` to ``(..., out_channels)``, normal with deviation 0.02 and biases of 0."""
    return Dense(in_channels, out_channels, weight_init=Normal(0.02), bias_init="zeros", has_bias=bias)


def tokens_between(x, first: int, end: int):
    """The tokens ``first`` to ``end`` of ``(N, L, C)``, ``(N, end - first, C)``; ``ops.split`` compiles slowly."""
    n, _, c = x.shape
    return ops.strided_slice(x, (0, first, 0), (n, end, c), (1, 1, 1))


def dropout(rate):
    return nn.Dropout(p=rate) if rate else nn.Identity()


def drop_path(rate):
    return DropPath(rate) if rate else nn.Identity()


def layer_scale(channels: int, value: Optional[float]) -> Optional[Parameter]:
    """A factor for each channel, ``(channels,)``, all ``value`` at first; None if that is None."""
    return None if value is None else Parameter(Tensor(np.full(channels, value, np.float32)))


# Geometry. These run when a graph is compiled, on plain integers; what they return is a constant of the graph.


@ops.constexpr
@lru_cache(maxsize=32)
def _token_coordinates(side) -> Tensor:
    """``(side**2, 2)``: row, then column of each token of a square, around its centre and about 1 at its edges."""
    half = max(side // 2, 1)
    axis = (np.arange(side) - side // 2) / half
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return Tensor(np.stack([rows, columns], -1).reshape(-1, 2).astype(np.float32))


@ops.constexpr
@lru_cache(maxsize=32)
def _offset_coordinates(side) -> Tensor:
    """``((2 * side - 1)**2, 2)``: every offset between two tokens of a square, on Swin v2's logarithmic scale."""
    axis = np.arange(1 - side, side) / max(side - 1, 1)
    axis = np.sign(axis) * np.log2(1 + np.abs(8 * axis)) / np.log2(8)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return Tensor(np.stack([rows, columns], -1).reshape(-1, 2).astype(np.float32))


@ops.constexpr
@lru_cache(maxsize=8)
def _offset_index(side, length) -> Tensor:
    """``(length**2,)``: for each query and key the row of :func:`_offset_coordinates`.

    The square is the end of the sequence; pairs with a token before it have the index one past the last row.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    span = 2 * side - 1
    index = (rows[:, None] - rows + side - 1) * span + columns[:, None] - columns + side - 1
    extra = length - side * side
    return Tensor(np.pad(index, ((extra, 0), (extra, 0)), constant_values=span * span).reshape(-1).astype(np.int32))


@ops.constexpr
@lru_cache(maxsize=32)
def _nearest_index(source, target) -> Tensor:
    """``(target**2,)``: for each token of a square the nearest of a smaller square, in row-major numbers."""
    axis = np.arange(target) * source // target
    return Tensor((axis[:, None] * source + axis).reshape(-1).astype(np.int32))


class PositionMLP(nn.Cell):
    """A position table: a two-layer MLP of coordinates, or what :meth:`fuse` stored of it (Swin v2, section 3.3).

    Args:
        width: outputs of the MLP, channels or heads.
        length: the sequence length to store the table for.
    """

    def __init__(self, width: int, length: int):
        super().__init__()
        self.length = length
        self.cpb_mlp = nn.SequentialCell(dense(2, 512), nn.ReLU(), dense(512, width, bias=False))
        self.stored = 0  # sequence length of the stored table

    def fuse(self) -> nn.Cell:
        """Store the table, under the official name, and use it wherever a sequence has its length."""
        self.relative_bias = Parameter(Tensor(self.table()), requires_grad=False)
        self.stored = self.length
        return self

    def table(self) -> np.ndarray:
        """What :meth:`construct` returns for the length of ``resolution``, computed in float64."""
        first, second = self.cpb_mlp[0], self.cpb_mlp[2]
        weight, bias, last = (p.asnumpy().astype(np.float64) for p in (first.weight, first.bias, second.weight))
        hidden = np.maximum(self.coordinates(self.length).asnumpy() @ weight.T + bias, 0)  # (N, 512)
        return self.arrange(Tensor(hidden @ last.T, first.weight.dtype), self.length).asnumpy()

    def official_buffers(self) -> Dict[str, np.ndarray]:
        """What the official state dict has under this cell's name besides parameters."""
        return {"relative_bias": self.table()}

    def construct(self, length):
        if length == self.stored:
            return self.relative_bias
        return self.arrange(self.cpb_mlp(self.coordinates(length)), length)


class PositionEmbedding(PositionMLP):
    """What is added to the tokens of a square: ``(1, length, C)``."""

    def coordinates(self, length):
        return _token_coordinates(math.isqrt(length))

    def arrange(self, table, length):
        return table.expand_dims(0)  # (1, length, C)


class PositionBias(PositionMLP):
    """What is added to attention scores: ``(1, heads, length, length)``.

    Args:
        length: the sequence length to store the table for.
        side: the last tokens of a sequence form a square of this side, or the largest that fits for None. There is no
            bias for the tokens before it.
    """

    def __init__(self, num_heads: int, length: int, side: Optional[int] = None):
        super().__init__(num_heads, length)
        self.num_heads, self.side = num_heads, side

    def coordinates(self, length):
        return _offset_coordinates(self.side or math.isqrt(length))

    def official_buffers(self) -> Dict[str, np.ndarray]:
        side = self.side or math.isqrt(self.length)
        coordinates = _offset_coordinates(side).asnumpy().reshape(1, 2 * side - 1, 2 * side - 1, 2)
        index = _offset_index(side, side * side).asnumpy().reshape(side * side, side * side).astype(np.int64)
        return {
            "relative_coords_table": coordinates, "relative_position_index": index, **super().official_buffers(),
        }  # fmt: skip

    def arrange(self, table, length):
        side = self.side or math.isqrt(length)
        table = 16 * ops.sigmoid(table)  # ((2 * side - 1)**2, heads)
        if length > side * side:
            table = ops.concat([table, ops.zeros((1, self.num_heads), table.dtype)])
        bias = ops.gather(table, _offset_index(side, length), 0)  # (length * length, heads)
        return bias.swapaxes(0, 1).reshape(1, -1, length, length)


class Attention(nn.Cell):
    """Multi-head self-attention with a bias that depends on the offset between two tokens, ``(N, L, dim)`` to same.

    Args:
        dim: a multiple of ``num_heads``.
        length, side: of :class:`PositionBias`.
    """

    def __init__(self, dim: int, variant: "Variant", num_heads: int, length: int, side: Optional[int] = None):
        super().__init__()
        self.qkv = dense(dim, 3 * dim, bias=variant.qkv_bias)
        self.pos_emb_funct = PositionBias(num_heads, length, side)
        scale = variant.qk_scale or (dim // num_heads) ** -0.5
        self.attention = SelfAttention(num_heads, scale, dropout(variant.attn_drop_rate))
        self.proj = dense(dim, dim)
        self.proj_drop = dropout(variant.drop_rate)

    def construct(self, x):
        x = self.attention(self.qkv(x), self.pos_emb_funct(x.shape[1]))
        return self.proj_drop(self.proj(x))


class MLP(nn.Cell):
    """Two linear layers with GELU between them, ``(..., dim)`` to same."""

    def __init__(self, dim: int, variant: "Variant"):
        super().__init__()
        hidden_dim = int(dim * variant.mlp_ratio)
        self.fc1 = dense(dim, hidden_dim)
        self.act = GELU()
        self.fc2 = dense(hidden_dim, dim)
        self.drop = dropout(variant.drop_rate)
        self.fused = FusedMLP()
        self.no_scale = Tensor(np.ones(dim, np.float32))

    def fuses(self):
        """Whether :meth:`add_to` runs in the graph that is compiled."""
        return self.fused.runs(self.training) and hasattr(self.fc1, "weight")  # not within a cell that casts

    def add_to(self, residual, scale, x):
        """``residual + scale * self(x)``, with the layers in one operator."""
        layers = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        return self.fused(x, *layers, self.no_scale if scale is None else scale, residual)

    def construct(self, x):
        x = self.drop(self.act(self.fc1(x)))
        return self.drop(self.fc2(x))


class ConvBlock(nn.Cell):
    """Two convolutions with a residual (section 3.2), ``(B, dim, H, W)`` to same.

    Args:
        drop_path_rate: of stochastic depth.
    """

    def __init__(self, dim: int, variant: "Variant", drop_path_rate: float):
        super().__init__()
        self.conv1 = conv3x3(dim, dim, bias=True)
        self.norm1 = BatchNorm2d(dim)
        self.act = GELU()
        self.conv2 = conv3x3(dim, dim, bias=True)
        self.norm2 = BatchNorm2d(dim)
        self.gamma = layer_scale(dim, variant.layer_scale_conv)
        self.drop_path = drop_path(drop_path_rate)

    def construct(self, x):
        y = conv_norm(self.conv2, self.norm2, self.act(conv_norm(self.conv1, self.norm1, x)))
        if self.gamma is not None:
            y = y * self.gamma.reshape(1, -1, 1, 1)
        return x + self.drop_path(y)


class WindowBlock(nn.Cell):
    """A transformer block within windows, ``(B * windows, w * w, dim)`` to same.

    Args:
        window: ``w``.
        extra: tokens that join each window for the attention: its carriers.
        drop_path_rate: of stochastic depth.
    """

    def __init__(
        self, dim: int, variant: "Variant", num_heads: int, window: int, extra: int, drop_path_rate: float
    ):  # fmt: skip
        super().__init__()
        self.pos_embed = PositionEmbedding(dim, window * window)
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, variant, num_heads, window * window + extra, window)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim, variant)
        self.gamma3 = layer_scale(dim, variant.layer_scale)
        self.gamma4 = layer_scale(dim, variant.layer_scale)
        self.drop_path = drop_path(drop_path_rate)

    def residual(self, x, branch, gamma):
        return x + self.drop_path(branch if gamma is None else branch * gamma)

    def feed_forward(self, x, norm, mlp, gamma):
        if mlp.fuses():
            return mlp.add_to(x, gamma, norm(x))
        return self.residual(x, mlp(norm(x)), gamma)

    def mix(self, x):
        x = self.residual(x, self.attn(self.norm1(x)), self.gamma3)
        return self.feed_forward(x, self.norm2, self.mlp, self.gamma4)

    def construct(self, x, carriers, rows, columns):
        return self.mix(x + self.pos_embed(x.shape[1])), carriers


class HierarchicalBlock(WindowBlock):
    """Attention among an image's carriers, then among each window's tokens and its own carriers (section 3.3).

    Maps windows ``(B * windows, w * w, C)`` and carriers ``(B, windows * c * c, C)``, window by window, to the same.
    Without carriers it is a :class:`WindowBlock`.

    Args:
        window: ``w``; ``c`` is the variant's ``ct_size``.
        grid: rows and columns of windows at the variant's resolution.
        drop_path_rate: of stochastic depth.
        propagates: add the carriers to their windows in the end.
    """

    def __init__(self, dim: int, variant: "Variant", num_heads: int, window: int, grid: Tuple[int, int],
                 drop_path_rate: float, propagates: bool):  # fmt: skip
        side = variant.ct_size
        super().__init__(dim, variant, num_heads, window, side * side, drop_path_rate)
        count = grid[0] * grid[1] * side * side
        self.side = side
        self.hat_pos_embed = PositionEmbedding(dim, count) if grid[0] == grid[1] else None
        self.hat_norm1 = LayerNorm(dim)
        self.hat_attn = Attention(dim, variant, num_heads, count)
        self.hat_norm2 = LayerNorm(dim)
        self.hat_mlp = MLP(dim, variant)
        self.gamma1 = layer_scale(dim, variant.layer_scale)
        self.gamma2 = layer_scale(dim, variant.layer_scale)
        self.propagates = propagates

    def mix_carriers(self, carriers, rows, columns):
        """``(B, T, C)``, window by window, to the ``(B * windows, c * c, C)`` that join the windows."""
        side = self.side
        _, count, dim = carriers.shape
        carriers = carriers.reshape(-1, rows, columns, side, side, dim)
        carriers = carriers.transpose(0, 1, 3, 2, 4, 5).reshape(-1, count, dim)  # (B, T, C), row by row of the image
        if rows == columns and self.hat_pos_embed is not None:
            carriers = carriers + self.hat_pos_embed(count)
        carriers = self.residual(carriers, self.hat_attn(self.hat_norm1(carriers)), self.gamma1)
        carriers = self.feed_forward(carriers, self.hat_norm2, self.hat_mlp, self.gamma2)
        # The official release swaps rows and columns here; trained weights on other than square grids expect it.
        carriers = carriers.reshape(-1, columns, side, rows, side, dim)
        return carriers.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, dim)

    def construct(self, x, carriers, rows, columns):
        _, tokens, dim = x.shape
        x = x + self.pos_embed(tokens)
        if carriers is None:
            return self.mix(x), carriers
        extra = self.side * self.side
        x = self.mix(ops.concat([self.mix_carriers(carriers, rows, columns), x], 1))  # (B * windows, c * c + w * w, C)
        own, x = tokens_between(x, 0, extra), tokens_between(x, extra, extra + tokens)
        if self.propagates:
            spread = ops.gather(own, _nearest_index(self.side, math.isqrt(tokens)), 1)  # (B * windows, w * w, C)
            x = x + (spread if self.gamma1 is None else spread * self.gamma1)
        return x, own.reshape(-1, rows * columns * extra, dim)


class TokenInitializer(nn.Cell):
    """The carriers of a map of whole windows: ``(B, dim, H, W)`` to ``(B, windows * c * c, dim)``, window by window.

    Args:
        side: ``c``.
    """

    def __init__(self, dim: int, side: int):
        super().__init__()
        self.side = side
        self.pos_embed = conv3x3(dim, dim, groups=dim, bias=True)

    def construct(self, x, rows, columns):
        _, dim, height, width = x.shape
        counts = (rows * self.side, columns * self.side)
        strides = (height // counts[0], width // counts[1])
        kernel = (height - (counts[0] - 1) * strides[0], width - (counts[1] - 1) * strides[1])
        x = ops.AvgPool(kernel, strides, "valid")(self.pos_embed(x))  # (B, C, c * rows, c * columns)
        x = x.reshape(-1, dim, rows, self.side, columns, self.side)
        return x.transpose(0, 2, 4, 3, 5, 1).reshape(-1, counts[0] * counts[1], dim)


class Downsample(nn.Cell):
    """``(B, dim, H, W)`` to ``(B, 2 * dim, ceil(H / 2), ceil(W / 2))``."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = ChannelNorm(dim, epsilon=1e-6)
        self.reduction = nn.SequentialCell([conv3x3(dim, 2 * dim, stride=2)])

    def construct(self, x):
        return self.reduction(self.norm(x))


class ConvLevel(nn.Cell):
    """Convolutional blocks, ``(B, dim, H, W)`` to same in :meth:`features`, then the halving of the map.

    Args:
        rates: of stochastic depth, of each block.
    """

    def __init__(self, dim: int, variant: "Variant", rates: Sequence[float]):
        super().__init__()
        self.blocks = nn.CellList([ConvBlock(dim, variant, rate) for rate in rates])
        self.downsample = Downsample(dim)

    def features(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def construct(self, x):
        return self.downsample(self.features(x))


class TransformerLevel(nn.Cell):
    """Transformer blocks on windows, ``(B, dim, H, W)`` to same in :meth:`features`, then the halving of the map.

    Args:
        level: 2 or 3; the last has no halving.
        rates: of stochastic depth, of each block.
    """

    def __init__(self, dim: int, variant: "Variant", level: int, rates: Sequence[float]):
        super().__init__()
        self.window = window = variant.window_size[level]
        num_heads, grid = variant.num_heads[level], variant.grid(level)
        self.hierarchical = variant.hat[level] and max(grid) > 1
        blocks = []
        for index, rate in enumerate(rates):
            if self.hierarchical:
                propagates = variant.do_propagation and index == len(rates) - 1
                blocks.append(HierarchicalBlock(dim, variant, num_heads, window, grid, rate, propagates))
            else:
                blocks.append(WindowBlock(dim, variant, num_heads, window, 0, rate))
        self.blocks = nn.CellList(blocks)
        self.global_tokenizer = None
        if self.hierarchical or (variant.any_resolution and variant.hat[level]):
            self.global_tokenizer = TokenInitializer(dim, variant.ct_size)
        self.downsample = Downsample(dim) if level < 3 else nn.Identity()

    def partition(self, x):
        """The windows ``(B * rows * columns, w * w, C)``, the carriers, if any, and the rows and columns of windows."""
        side = self.window
        _, dim, height, width = x.shape
        rows, columns = -(-height // side), -(-width // side)
        if (rows * side, columns * side) != (height, width):
            x = ops.Pad(((0, 0), (0, 0), (0, rows * side - height), (0, columns * side - width)))(x)
        carriers = None
        if self.hierarchical and rows * columns > 1:
            carriers = self.global_tokenizer(x, rows, columns)
        x = x.reshape(-1, dim, rows, side, columns, side).transpose(0, 2, 4, 3, 5, 1)
        return x.reshape(-1, side * side, dim), carriers, rows, columns

    def features(self, x):
        side = self.window
        _, dim, height, width = x.shape
        x, carriers, rows, columns = self.partition(x)
        for block in self.blocks:
            x, carriers = block(x, carriers, rows, columns)
        x = x.reshape(-1, rows, columns, side, side, dim).transpose(0, 5, 1, 3, 2, 4)
        x = x.reshape(-1, dim, rows * side, columns * side)
        if (rows * side, columns * side) != (height, width):
            x = x[:, :, :height, :width]
        return x

    def construct(self, x):
        return self.downsample(self.features(x))


class PatchEmbed(nn.Cell):
    """``(B, in_channels, H, W)`` to ``(B, dim, ceil(H / 4), ceil(W / 4))``, with ``in_dim`` channels between."""

    def __init__(self, in_channels: int, in_dim: int, dim: int):
        super().__init__()
        self.conv_down = nn.SequentialCell(
            conv3x3(in_channels, in_dim, stride=2), BatchNorm2d(in_dim, eps=1e-4), nn.ReLU(),
            conv3x3(in_dim, dim, stride=2), BatchNorm2d(dim, eps=1e-4), nn.ReLU(),
        )  # fmt: skip

    def construct(self, x):
        conv1, norm1, act1, conv2, norm2, act2 = self.conv_down
        return act2(conv_norm(conv2, norm2, act1(conv_norm(conv1, norm1, x))))


@dataclass(frozen=True)
class Variant:
    """A FasterViT (table 1 of the paper); every field but the last is an option of the model functions.

    Attributes:
        depths, num_heads, window_size, hat: of the four levels; window size and heads count in the last two, and
            ``hat`` says which of them are hierarchical.
        dim, in_dim: width of the first level, which doubles with each, and of the stem's first convolution.
        resolution: the image size, or height and width, that decides which carrier parameters exist.
        ct_size: side of the square of carrier tokens that each window owns.
        layer_scale, layer_scale_conv: initial scale of the residual branches of transformers and convolutions.
        do_propagation: add the carriers to their windows after the last block of a hierarchical level.
        any_resolution: the official any-resolution release, which has carrier parameters in a few more cases.
    """

    depths: Tuple[int, ...]
    num_heads: Tuple[int, ...]
    dim: int
    in_dim: int = 64
    window_size: Tuple[int, ...] = (7, 7, 7, 7)
    resolution: Union[int, Tuple[int, int]] = 224
    drop_path_rate: float = 0.2
    layer_scale: Optional[float] = None
    do_propagation: bool = False
    hat: Optional[Tuple[bool, ...]] = (False, False, True, False)
    ct_size: int = 2
    mlp_ratio: float = 4
    qkv_bias: bool = True
    qk_scale: Optional[float] = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    layer_scale_conv: Optional[float] = None
    layer_norm_last: bool = False
    any_resolution: bool = False

    def __post_init__(self):
        if self.hat is None:
            object.__setattr__(self, "hat", (True,) * 4)
        self._check_levels()
        self._check_resolution()

    def _check_levels(self):
        for name in ("depths", "num_heads", "window_size", "hat"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != 4:
                raise InputError(f"{name} is {value}, but FasterViT has four levels: give a list of four.")
        for level in (2, 3):
            width, heads, window = self.dim * 2**level, self.num_heads[level], self.window_size[level]
            if heads < 1 or width % heads:
                fitting = [n for n in range(1, width + 1) if width % n == 0 and n <= 64]
                raise InputError(
                    f"num_heads[{level}] is {heads}, which does not divide the {width} channels of that level: "
                    f"choose from {fitting}."
                )
            if not isinstance(window, (int, np.integer)) or window < 2:
                raise InputError(f"window_size[{level}] is {window}: a window needs a whole side of at least 2 tokens.")
            if self.hat[level] and self.ct_size not in range(1, window + 1):
                raise InputError(
                    f"ct_size is {self.ct_size}, but a window of {window}x{window} tokens in level {level} pools into "
                    f"1x1 to {window}x{window} carrier tokens: choose a whole number from 1 to {window}."
                )

    def _check_resolution(self):
        sides = self.resolution if isinstance(self.resolution, (tuple, list)) else (self.resolution,) * 2
        if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side >= 16 for side in sides):
            raise InputError(
                f"resolution is {self.resolution}: give one side or [height, width] in whole pixels, at least 16 each."
            )
        object.__setattr__(self, "resolution", tuple(int(side) for side in sides))

    def grid(self, level) -> Tuple[int, int]:
        """Rows and columns of windows at ``resolution``."""
        sizes, window = (side // 2 ** (level + 2) for side in self.resolution), self.window_size[level]
        return tuple(-(-size // window) if self.any_resolution else max(size // window, 1) for size in sizes)


_SMALL = {"num_heads": (2, 4, 8, 16)}
_LARGE = {"num_heads": (4, 8, 16, 32), "layer_scale": 1e-5, "do_propagation": True, "drop_path_rate": 0.3}
_21K = {**_LARGE, "depths": (3, 3, 12, 5), "dim": 196, "drop_path_rate": 0.42, "hat": (False,) * 4}

VARIANTS = {
    "faster_vit_0_224": Variant((2, 3, 6, 5), dim=64, **_SMALL),
    "faster_vit_1_224": Variant((1, 3, 8, 5), dim=80, in_dim=32, **_SMALL),
    "faster_vit_2_224": Variant((3, 3, 8, 5), dim=96, **_SMALL),
    "faster_vit_3_224": Variant((3, 3, 12, 5), dim=128, **{**_LARGE, **_SMALL}),
    "faster_vit_4_224": Variant((3, 3, 12, 5), dim=196, **_LARGE),
    "faster_vit_5_224": Variant((3, 3, 12, 5), dim=320, **_LARGE),
    "faster_vit_6_224": Variant((3, 3, 16, 8), dim=320, **{**_LARGE, "drop_path_rate": 0.5}),
    "faster_vit_4_21k_224": Variant(window_size=(7, 7, 14, 7), **_21K),
    "faster_vit_4_21k_384": Variant(window_size=(7, 7, 24, 12), resolution=384, **_21K),
    "faster_vit_4_21k_512": Variant(window_size=(7, 7, 32, 16), resolution=512, **_21K),
    "faster_vit_4_21k_768": Variant(window_size=(7, 7, 48, 24), resolution=768, **_21K),
}


def _any_resolution(name, variant):
    """The official defaults of a variant's any-resolution twin: its size, and less drop path after 21k classes."""
    if "21k" in name:
        return replace(variant, any_resolution=True, drop_path_rate=0.3, resolution=(576, 960))
    return replace(variant, any_resolution=True, resolution=(541 if "_2_" in name else 576, 960))


VARIANTS.update(
    {(name if "21k" in name else name[: -len("_224")]) + "_any_res": _any_resolution(name, variant)
     for name, variant in VARIANTS.items()}
)  # fmt: skip

_CROP_PCT = {"0": 0.875, "21k_224": 0.95, "21k_768": 0.93}


def _default_cfg(name, variant):
    key = re.search(r"21k_\d+|\d", name)[0]
    return image_config(
        variant.resolution, "patch_embed.conv_down.0", _CROP_PCT.get(key, 1.0),
        crop_mode="squash" if "21k" in name else "center",
    )  # fmt: skip


default_cfgs = {name: _default_cfg(name, variant) for name, variant in VARIANTS.items()}


class _Trunk(nn.Cell):
    """``patch_embed`` and ``levels``, which the classifier and the backbone share."""

    def __init__(self, variant: Variant, in_channels: int):
        super().__init__()
        self.hat = variant.hat
        self.patch_embed = PatchEmbed(in_channels, variant.in_dim, variant.dim)
        rates = np.linspace(0, variant.drop_path_rate, sum(variant.depths)).tolist()
        levels = []
        for level, depth in enumerate(variant.depths):
            own, rates = rates[:depth], rates[depth:]
            dim = variant.dim * 2**level
            levels.append(ConvLevel(dim, variant, own) if level < 2 else TransformerLevel(dim, variant, level, own))
        self.levels = nn.CellList(levels)

    def layer_groups(self) -> List[Tuple[str, ...]]:
        """Names of the cells of each layer, from the images on, for layer-wise learning rates."""
        groups = [("patch_embed",)]
        for index, level in enumerate(self.levels):
            groups += [(f"levels.{index}.blocks.{i}",) for i in range(len(level.blocks))]
            groups[-len(level.blocks)] += (f"levels.{index}.global_tokenizer",)
            groups.append((f"levels.{index}.downsample",))
        return groups[:-1] + [(name,) for name in ("norm", "head") if hasattr(self, name)]

    def ignores(self, name: str) -> bool:
        """True for the state-dict entry of a carrier parameter that this network lacks because of its resolution."""
        match = re.match(r"levels\.(\d)\.(global_tokenizer\.|blocks\.\d+\.(hat_|gamma[12]$))", name)
        return bool(match) and bool(self.hat[int(match[1])])


class FasterViT(_Trunk):
    """The classifier: ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``, or ``(B, 8 * dim)`` for 0 classes."""

    def __init__(self, variant: Variant, num_classes=1000, in_channels=3):
        super().__init__(variant, in_channels)
        dim = variant.dim * 8
        self.norm = ChannelNorm(dim, epsilon=1e-6) if variant.layer_norm_last else BatchNorm2d(dim)
        self.pool = GlobalAvgPool()
        self.num_features = dim
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new head for ``num_classes`` classes; 0 leaves it out."""
        self.compile_cache.clear()
        self.head = dense(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def construct(self, x):
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        x = self.patch_embed(x)
        for level in self.levels:
            x = level(x)
        return x  # (B, 8 * dim, H / 32, W / 32)

    def forward_head(self, x):
        return self.head(self.pool(self.norm(x)))


class FasterViTFeatures(_Trunk):
    """The backbone for dense prediction: maps ``(B, C_i, H / s_i, W / s_i)``, strides ``s`` of 4, 8, 16 and 32.

    A map is the end of its level's blocks, before the map is halved, as the official detection models take it.

    Args:
        out_indices: which of the four maps to return.

    Attributes:
        out_channels, out_strides: width and stride of each returned map.
    """

    def __init__(self, variant: Variant, out_indices=(0, 1, 2, 3), in_channels=3):
        check_out_indices("FasterViT", out_indices)
        super().__init__(variant, in_channels)
        self.out_indices = tuple(out_indices)
        self.out_channels = [variant.dim * 2**i for i in out_indices]
        self.out_strides = [4 * 2**i for i in out_indices]

    def construct(self, x):
        x = self.patch_embed(x)
        maps = []
        for level in self.levels:
            feature = level.features(x)
            maps.append(feature)
            x = level.downsample(feature)
        return tuple([maps[i] for i in self.out_indices])


def _create(name, pretrained=False, features_only=False, num_classes=1000, in_channels=3, out_indices=(0, 1, 2, 3),
            **options):  # fmt: skip
    refuse_pretrained(name, pretrained)
    variant = replace(VARIANTS[name], **options)
    if features_only:
        return FasterViTFeatures(variant, out_indices, in_channels)
    return FasterViT(variant, num_classes, in_channels)


@register_model
def faster_vit_0_224(**kwargs) -> nn.Cell:
    """FasterViT-0 at 224: 31.4 M parameters; options are the fields of :class:`Variant`, ``features_only`` and
    ``out_indices``."""
    return _create("faster_vit_0_224", **kwargs)


@register_model
def faster_vit_1_224(**kwargs) -> nn.Cell:
    """FasterViT-1 at 224: 53.4 M parameters."""
    return _create("faster_vit_1_224", **kwargs)


@register_model
def faster_vit_2_224(**kwargs) -> nn.Cell:
    """FasterViT-2 at 224: 75.9 M parameters."""
    return _create("faster_vit_2_224", **kwargs)


@register_model
def faster_vit_3_224(**kwargs) -> nn.Cell:
    """FasterViT-3 at 224: 159.5 M parameters."""
    return _create("faster_vit_3_224", **kwargs)


@register_model
def faster_vit_4_224(**kwargs) -> nn.Cell:
    """FasterViT-4 at 224: 365.6 M parameters (the release; the paper says 424.6 M)."""
    return _create("faster_vit_4_224", **kwargs)


@register_model
def faster_vit_5_224(**kwargs) -> nn.Cell:
    """FasterViT-5 at 224: 957.5 M parameters (the release; the paper says 975.5 M)."""
    return _create("faster_vit_5_224", **kwargs)


@register_model
def faster_vit_6_224(**kwargs) -> nn.Cell:
    """FasterViT-6 at 224: 1,360.3 M parameters."""
    return _create("faster_vit_6_224", **kwargs)


@register_model
def faster_vit_4_21k_224(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K at 224: 271.9 M parameters, no carrier tokens."""
    return _create("faster_vit_4_21k_224", **kwargs)


@register_model
def faster_vit_4_21k_384(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K at 384: 271.9 M parameters, no carrier tokens."""
    return _create("faster_vit_4_21k_384", **kwargs)


@register_model
def faster_vit_4_21k_512(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K at 512: 271.9 M parameters, no carrier tokens."""
    return _create("faster_vit_4_21k_512", **kwargs)


@register_model
def faster_vit_4_21k_768(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K at 768: 271.9 M parameters, no carrier tokens."""
    return _create("faster_vit_4_21k_768", **kwargs)


@register_model
def faster_vit_0_any_res(**kwargs) -> nn.Cell:
    """FasterViT-0 for any resolution, by default 576x960."""
    return _create("faster_vit_0_any_res", **kwargs)


@register_model
def faster_vit_1_any_res(**kwargs) -> nn.Cell:
    """FasterViT-1 for any resolution, by default 576x960."""
    return _create("faster_vit_1_any_res", **kwargs)


@register_model
def faster_vit_2_any_res(**kwargs) -> nn.Cell:
    """FasterViT-2 for any resolution, by default 541x960."""
    return _create("faster_vit_2_any_res", **kwargs)


@register_model
def faster_vit_3_any_res(**kwargs) -> nn.Cell:
    """FasterViT-3 for any resolution, by default 576x960."""
    return _create("faster_vit_3_any_res", **kwargs)


@register_model
def faster_vit_4_any_res(**kwargs) -> nn.Cell:
    """FasterViT-4 for any resolution, by default 576x960."""
    return _create("faster_vit_4_any_res", **kwargs)


@register_model
def faster_vit_5_any_res(**kwargs) -> nn.Cell:
    """FasterViT-5 for any resolution, by default 576x960."""
    return _create("faster_vit_5_any_res", **kwargs)


@register_model
def faster_vit_6_any_res(**kwargs) -> nn.Cell:
    """FasterViT-6 for any resolution, by default 576x960."""
    return _create("faster_vit_6_any_res", **kwargs)


@register_model
def faster_vit_4_21k_224_any_res(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K with the windows for 224, for any resolution."""
    return _create("faster_vit_4_21k_224_any_res", **kwargs)


@register_model
def faster_vit_4_21k_384_any_res(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K with the windows for 384, for any resolution."""
    return _create("faster_vit_4_21k_384_any_res", **kwargs)


@register_model
def faster_vit_4_21k_512_any_res(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K with the windows for 512, for any resolution."""
    return _create("faster_vit_4_21k_512_any_res", **kwargs)


@register_model
def faster_vit_4_21k_768_any_res(**kwargs) -> nn.Cell:
    """FasterViT-4 from ImageNet-21K with the windows for 768, for any resolution."""
    return _create("faster_vit_4_21k_768_any_res", **kwargs)

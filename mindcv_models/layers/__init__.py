"""Layers and operators that models are built of, in forms that every back end has and runs fast."""

from .activation import GELU
from .attention import CrossAttention, SelfAttention, WindowAttention
from .convolution import Conv2d, LoopConv2d, conv_norm
from .deformable import DeformableConv2d, deformable_conv2d
from .dense import Dense, Pointwise
from .kernel import Kernel
from .mlp import FusedMLP
from .nms import NMS
from .normalization import BatchNorm2d, ChannelNorm, LayerNorm, joint_norms
from .pixels import PixelSums
from .pooling import GlobalAvgPool, WindowMeans
from .residual import ScaledResidual
from .resize import Enlarge, ResizeLike, resize, resize_nearest
from .roi_align import RoIAlign

__all__ = [
    "GELU",
    "NMS",
    "BatchNorm2d",
    "ChannelNorm",
    "Conv2d",
    "CrossAttention",
    "DeformableConv2d",
    "Dense",
    "Enlarge",
    "FusedMLP",
    "GlobalAvgPool",
    "Kernel",
    "LayerNorm",
    "LoopConv2d",
    "PixelSums",
    "Pointwise",
    "ResizeLike",
    "RoIAlign",
    "ScaledResidual",
    "SelfAttention",
    "WindowAttention",
    "WindowMeans",
    "conv_norm",
    "deformable_conv2d",
    "joint_norms",
    "resize",
    "resize_nearest",
]

"""Layers and operators that models are built of, in forms that every back end has and runs fast."""

from .activation import GELU
from .attention import SelfAttention
from .convolution import Conv2d, LoopConv2d
from .deformable import DeformableConv2d, deformable_conv2d
from .dense import Dense, Pointwise
from .kernel import Kernel
from .nms import NMS
from .normalization import BatchNorm2d, ChannelNorm, LayerNorm
from .pooling import GlobalAvgPool
from .residual import ScaledResidual
from .resize import Enlarge, ResizeLike, resize, resize_nearest
from .roi_align import RoIAlign
from .winograd import Winograd

__all__ = [
    "GELU",
    "NMS",
    "BatchNorm2d",
    "ChannelNorm",
    "Conv2d",
    "DeformableConv2d",
    "Dense",
    "Enlarge",
    "GlobalAvgPool",
    "Kernel",
    "LayerNorm",
    "LoopConv2d",
    "Pointwise",
    "ResizeLike",
    "RoIAlign",
    "ScaledResidual",
    "SelfAttention",
    "Winograd",
    "deformable_conv2d",
    "resize",
    "resize_nearest",
]

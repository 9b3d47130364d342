"""Semantic FPN: every pixel's class, from a feature pyramid on any backbone.

Paper: Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, https://arxiv.org/abs/1901.02446, section 3.1. The
backbone's maps have strides 4, 8, 16 and 32. Attribute names are those of the official LITv2 segmenters (``backbone``,
``neck``, ``decode_head``), so that parameters map one to one.
"""

from mindcv.models.layers.drop_path import DropPath
from mindcv.models.registry import register_model
from mindspore import nn, ops
from mindspore.common.initializer import HeNormal, Normal

from ..errors import InputError, refuse_pretrained
from ..layers import BatchNorm2d, Conv2d, Enlarge, ResizeLike, conv_norm
from .backbones import create_backbone
from .family import dense_config
from .fpn import FPN

__all__ = ["SemanticFPN", "SemanticHead"]

VARIANTS = {"semantic_fpn": "segmentation"}

default_cfgs = {
    name: dense_config(task, 150, (512, 512), classifier="decode_head.conv_seg") for name, task in VARIANTS.items()
}


class ConvUnit(nn.Cell):
    """A 3x3 convolution without bias, batch normalisation, ReLU: ``(B, in, H, W)`` to ``(B, out, H, W)``."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 3, weight_init=HeNormal(mode="fan_out", nonlinearity="relu"))
        self.bn = BatchNorm2d(out_channels)

    def construct(self, x):
        return ops.relu(conv_norm(self.conv, self.bn, x))


class SemanticHead(nn.Cell):
    """Maps of strides 4, 8, 16 and 32, ``(B, in_channels, H_k, W_k)``, to logits ``(B, num_classes, H_0, W_0)``.

    Level ``k`` passes ``max(1, k)`` units, each followed by a doubling but at level 0. The branches are brought to the
    exact size of level 0 and added; whole channels drop out of the sum; a 1x1 convolution gives the logits.

    Args:
        drop_rate: probability that a channel of an image is dropped in training.
    """

    def __init__(self, num_classes: int, in_channels: int = 256, channels: int = 128, drop_rate: float = 0.1):
        super().__init__()
        self.conv_seg = Conv2d(
            channels, num_classes, 1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros"
        )  # fmt: skip
        branches = []
        for level in range(4):
            units = []
            for k in range(max(1, level)):
                units.append(ConvUnit(channels if k else in_channels, channels))
                units += [Enlarge()] if level else []
            branches.append(nn.SequentialCell(units))
        self.scale_heads = nn.CellList(branches)
        self.resize = ResizeLike()
        # Stochastic depth over rows of (B * C, 1, H, W) drops channels; the training loop gives its random numbers.
        self.dropout = DropPath(drop_rate) if drop_rate else nn.Identity()

    def construct(self, maps):
        total = self.scale_heads[0](maps[0])
        b, c, height, width = total.shape
        for level in range(1, 4):
            total = total + self.resize(self.scale_heads[level](maps[level]), total)
        if self.training:
            total = self.dropout(total.reshape(b * c, 1, height, width)).reshape(b, c, height, width)
        return self.conv_seg(total)


class SemanticFPN(nn.Cell):
    """Images ``(B, in_channels, H, W)`` of any size to logits ``(B, num_classes, ceil(H / 4), ceil(W / 4))``.

    Class 0 is the first class; there is none for "nothing". Logits at the images' size are their bilinear enlargement.

    Args:
        backbone: name of a model that gives maps of strides 4, 8, 16 and 32, of this project or of MindCV.
        drop_rate: of the head's channels.
        channels: width of the pyramid.
        head_channels: width of the head.
        **kwargs: further options of the backbone, such as ``drop_path_rate`` or ``window_size``.

    Raises:
        InputError: there is no class, or no such backbone.
    """

    def __init__(self, backbone: str = "litv2_s", num_classes: int = 150, in_channels: int = 3, drop_rate: float = 0.1,
                 channels: int = 256, head_channels: int = 128, **kwargs):  # fmt: skip
        super().__init__()
        if num_classes < 1:
            raise InputError(f"num_classes is {num_classes}, but semantic_fpn needs at least 1.")
        self.backbone = create_backbone(backbone, dense="segmentation", in_channels=in_channels, **kwargs)
        self.neck = FPN(self.backbone.out_channels, channels, init="kaiming")
        self.decode_head = SemanticHead(num_classes, channels, head_channels, drop_rate)
        self.num_classes = num_classes

    def construct(self, images):
        return self.decode_head(self.neck(self.backbone(images)))

    def no_weight_decay(self):
        """None: the official recipes decay every parameter, norms and biases too."""
        return []


@register_model
def semantic_fpn(pretrained=False, **kwargs) -> nn.Cell:
    """Semantic FPN; options as in :class:`SemanticFPN`."""
    refuse_pretrained("semantic_fpn", pretrained)
    return SemanticFPN(**kwargs)

"""Mask R-CNN: boxes and masks of objects, in two stages, over any backbone.

Paper: He et al., ICCV 2017, https://arxiv.org/abs/1703.06870; the first stage is that of Faster R-CNN (Ren et al.,
NeurIPS 2015). Attribute names (``backbone``, ``neck``, ``rpn_head``, ``roi_head``) and all values that are not the
papers' are those of the official LITv2 detectors. Any image size works.

The second stage looks at regions that follow from the first one's outputs. Choosing them is `mindcv_models.detection`'s
business, so the network has a method for each stage.
"""

import math

import mindspore as ms
from mindcv.models.registry import register_model
from mindspore import nn, ops
from mindspore.common.initializer import Normal, XavierUniform

from ..errors import InputError, refuse_pretrained
from ..layers import Conv2d, RoIAlign
from .backbones import create_backbone
from .family import dense_config
from .fpn import FPN, ConvModule

__all__ = ["MaskRCNN"]

ANCHORS = 3  # a cell: three ratios
STRIDES = (4, 8, 16, 32)  # of the backbone's maps, which regions are taken from; the neck adds 64
BOX_SIZE, MASK_SIZE = 7, 14  # of a region's features

VARIANTS = {"mask_rcnn": "detection"}

default_cfgs = {
    name: dense_config(
        task, 80, (800, 1344), background=True,
        classifier=("roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits"),
    )
    for name, task in VARIANTS.items()
}  # fmt: skip


def linear(inputs, outputs, weight_init):
    return nn.Dense(inputs, outputs, weight_init=weight_init, bias_init="zeros")


class RPNHead(nn.Cell):
    """The first stage: is there an object near an anchor, and where exactly?

    Maps ``(B, channels, H_k, W_k)`` to logits ``(B, A_k)`` and deltas ``(B, A_k, 4)``, a tuple of each with an entry a
    level: ``A_k = 3 * H_k * W_k`` anchors row by row, those of a cell one after the other.
    """

    def __init__(self, channels: int):
        super().__init__()
        options = {"has_bias": True, "weight_init": Normal(0.01), "bias_init": "zeros"}
        self.rpn_conv = Conv2d(channels, channels, 3, **options)
        self.rpn_cls = Conv2d(channels, ANCHORS, 1, **options)
        self.rpn_reg = Conv2d(channels, 4 * ANCHORS, 1, **options)

    def construct(self, maps):
        logits, deltas = (), ()
        for x in maps:
            x = ops.relu(self.rpn_conv(x))
            anchors = x.shape[2] * x.shape[3] * ANCHORS  # a batch of any size stays one unknown
            logits += (self.rpn_cls(x).transpose(0, 2, 3, 1).reshape(-1, anchors),)
            deltas += (self.rpn_reg(x).transpose(0, 2, 3, 1).reshape(-1, anchors, 4),)
        return logits, deltas


class BoxHead(nn.Cell):
    """Features ``(N, channels, 7, 7)`` to logits ``(N, num_classes + 1)``, the background's last, and deltas
    ``(N, 4 * num_classes)``, four a class."""

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        width = 4 * channels
        self.fc_cls = linear(width, num_classes + 1, Normal(0.01))
        self.fc_reg = linear(width, 4 * num_classes, Normal(0.001))
        self.shared_fcs = nn.CellList(
            [linear(channels * BOX_SIZE**2, width, XavierUniform()), linear(width, width, XavierUniform())]
        )

    def construct(self, x):
        x = x.reshape(x.shape[0], -1)
        for layer in self.shared_fcs:
            x = ops.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Cell):
    """Features ``(N, channels, 14, 14)`` to logits ``(N, num_classes, 28, 28)``, a mask for each class."""

    def __init__(self, num_classes: int, channels: int, convs: int = 4):
        super().__init__()

        def kaiming(outputs, kernel_size):
            return Normal(math.sqrt(2 / (outputs * kernel_size**2)))

        self.convs = nn.CellList(
            [ConvModule(channels, channels, 3, 1, kaiming(channels, 3), relu=True) for _ in range(convs)]
        )
        self.upsample = nn.Conv2dTranspose(
            channels, channels, 2, 2, pad_mode="valid", has_bias=True,
            weight_init=kaiming(channels, 2), bias_init="zeros",
        )  # fmt: skip
        self.conv_logits = Conv2d(
            channels, num_classes, 1, has_bias=True, weight_init=kaiming(num_classes, 1), bias_init="zeros"
        )

    def construct(self, x):
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(ops.relu(self.upsample(x)))

    def own(self, x, labels):
        """The logits ``(N, 28, 28)`` of each region's class alone, ``labels`` (N) int32.

        The taps of the transposed convolution do not overlap, so it is a matrix product, whose rows stay in the order
        of positions before they are spread; and of the last layer each region needs one row.
        """
        if not hasattr(self.upsample, "weight"):  # cast to float16 by a cell around it
            return self.chosen(self.construct(x), labels)
        for conv in self.convs:
            x = conv(x)
        x = x.transpose(0, 2, 3, 1)
        n, h, w, c = x.shape
        taps = self.upsample.weight.transpose(0, 2, 3, 1).reshape(c, 4 * c).astype(x.dtype)
        bias = ops.tile(self.upsample.bias, (4,)).astype(x.dtype)
        x = ops.relu(ops.matmul(x.reshape(n * h * w, c), taps) + bias)  # (N * H * W, 4 * C)
        own = ops.gather(self.conv_logits.weight.reshape(-1, c), labels, 0).astype(x.dtype)  # (N, C)
        logits = ops.matmul(x.reshape(n, h * w * 4, c), own.expand_dims(2))
        logits = logits.reshape(n, h, w, 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, 2 * h, 2 * w)
        return logits + ops.gather(self.conv_logits.bias, labels, 0).astype(x.dtype).reshape(n, 1, 1)

    def chosen(self, logits, labels):
        n, classes, h, w = logits.shape
        rows = ops.arange(n).astype(ms.int32) * classes + labels
        return ops.gather(logits.reshape(n * classes, h * w), rows, 0).reshape(n, h, w)


class RoIHead(nn.Cell):
    """The second stage: features of regions, and what is in them.

    Takes the neck's maps ``(B, channels, H_k, W_k)``, finest first, and regions ``(B, R, 4)`` in pixels of the images;
    gives ``B * R`` rows, those of the first image first.
    """

    keeps_float32 = True  # the regions; heads compute in the network's precision

    def __init__(self, num_classes: int, channels: int, convs: int = 4):
        super().__init__()
        self.box_features, self.mask_features = RoIAlign(BOX_SIZE, STRIDES), RoIAlign(MASK_SIZE, STRIDES)
        self.bbox_head = BoxHead(num_classes, channels)
        self.mask_head = MaskHead(num_classes, channels, convs)

    def boxes(self, maps, regions):
        """Logits ``(B * R, num_classes + 1)`` and deltas ``(B * R, 4 * num_classes)``."""
        return self.bbox_head(flat(self.box_features(maps, regions)))

    def masks(self, maps, regions):
        """Logits ``(B * R, num_classes, 28, 28)``."""
        return self.mask_head(flat(self.mask_features(maps, regions)))

    def own_masks(self, maps, regions, labels):
        """Logits ``(B * R, 28, 28)`` of each region's class, ``labels`` (B, R) int32."""
        return self.mask_head.own(flat(self.mask_features(maps, regions)), labels.reshape(-1))


def flat(x):
    return x.reshape(-1, *x.shape[2:])


class MaskRCNN(nn.Cell):
    """Images ``(B, in_channels, H, W)`` to the outputs of the first stage and the neck's maps.

    Args:
        backbone: the name of any model that gives feature maps.
        num_classes: of objects; the background is one more.
        channels: width of the neck and the heads; the two layers before boxes have four times as many.
        convs: 3x3 convolutions of the mask head.
        anchor_scale: side of the smallest anchors, in strides; 8 is for objects of 32 pixels and more.
        **options: the backbone's own, such as ``drop_path_rate`` or LITv2's ``window_size``.

    Returns:
        Logits and deltas as in :class:`RPNHead`, and the maps ``(B, channels, H_k, W_k)`` of strides 4 to 64 for
        :class:`RoIHead`.

    Raises:
        InputError: no class, or the backbone does not give maps of strides 4, 8, 16 and 32.
    """

    def __init__(self, backbone: str = "litv2_s", num_classes: int = 80, in_channels: int = 3, channels: int = 256,
                 convs: int = 4, anchor_scale: float = 8.0, **options):  # fmt: skip
        super().__init__()
        for name, value in (("num_classes", num_classes), ("channels", channels), ("anchor_scale", anchor_scale)):
            if value <= 0:
                raise InputError(f"{name} is {value}, but must be above 0.")
        self.backbone = create_backbone(backbone, STRIDES, "detection", in_channels, **options)
        self.neck = FPN(self.backbone.out_channels, channels, extra="pool")
        self.rpn_head = RPNHead(channels)
        self.roi_head = RoIHead(num_classes, channels, convs)
        self.num_classes, self.anchor_scale = num_classes, anchor_scale

    def construct(self, x):
        maps = self.neck(self.backbone(x))
        logits, deltas = self.rpn_head(maps)
        return logits, deltas, maps

    def no_weight_decay(self):
        """Names with ``norm`` in them: norms are not decayed, biases are."""
        return [p.name for p in self.trainable_params() if "norm" in p.name]


@register_model
def mask_rcnn(pretrained=False, **options) -> nn.Cell:
    """Mask R-CNN; options as in :class:`MaskRCNN`."""
    refuse_pretrained("mask_rcnn", pretrained)
    return MaskRCNN(**options)

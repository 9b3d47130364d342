"""RetinaNet: a one-stage detector over any backbone.

Paper: Lin et al., ICCV 2017, https://arxiv.org/abs/1708.02002. Attribute names (``backbone``, ``neck``, ``bbox_head``)
and all values that are not the paper's are those of the official LITv2 detectors. Any image size works.

The network gives raw outputs, a row an anchor; `mindcv_models.detection` knows the anchors and decodes.
"""

import math

from mindcv.models.registry import register_model
from mindspore import nn, ops
from mindspore.common.initializer import Constant, Normal

from ..errors import InputError, refuse_pretrained
from ..layers import Conv2d
from .backbones import create_backbone
from .family import dense_config
from .fpn import FPN, ConvModule

__all__ = ["RetinaHead", "RetinaNet"]

ANCHORS = 9  # a cell: three ratios times three scales
STRIDES = (8, 16, 32)  # of the backbone's maps; the neck adds 64 and 128
PRIOR = 0.01  # score of every class at first

VARIANTS = {"retinanet": "detection"}

default_cfgs = {
    name: dense_config(task, 80, (800, 1344), classifier="bbox_head.retina_cls", outputs_per_class=ANCHORS)
    for name, task in VARIANTS.items()
}


class RetinaHead(nn.Cell):
    """Two towers of ``convs`` convolutions, for classes and for boxes, shared by all levels (section 4).

    Maps ``(B, channels, H_k, W_k)`` to logits ``(B, A, num_classes)`` and deltas ``(B, A, 4)``: ``A`` anchors, levels
    one after the other, in each row by row, ``ANCHORS`` a cell.
    """

    def __init__(self, num_classes: int, channels: int = 256, convs: int = 4):
        super().__init__()
        self.num_classes = num_classes

        def tower():
            return nn.CellList([ConvModule(channels, channels, 3, 1, Normal(0.01), relu=True) for _ in range(convs)])

        def last(outputs, bias):
            return Conv2d(channels, outputs, 3, has_bias=True, weight_init=Normal(0.01), bias_init=Constant(bias))

        self.cls_convs, self.reg_convs = tower(), tower()
        self.retina_cls = last(ANCHORS * num_classes, -math.log((1 - PRIOR) / PRIOR))
        self.retina_reg = last(ANCHORS * 4, 0.0)

    def level(self, x):
        """The outputs of one level as maps: ``(B, ANCHORS * num_classes, H, W)`` and ``(B, ANCHORS * 4, H, W)``."""
        classes, boxes = x, x
        for conv in self.cls_convs:
            classes = conv(classes)
        for conv in self.reg_convs:
            boxes = conv(boxes)
        return self.retina_cls(classes), self.retina_reg(boxes)

    def construct(self, maps):
        logits, deltas = (), ()
        for x in maps:
            classes, boxes = self.level(x)
            logits += (rows(classes, self.num_classes),)
            deltas += (rows(boxes, 4),)
        return ops.concat(logits, 1), ops.concat(deltas, 1)


def rows(x, values: int):
    """``(B, ANCHORS * values, H, W)`` to ``(B, H * W * ANCHORS, values)``."""
    _, _, height, width = x.shape  # only the batch may be unknown, as in exported files
    return x.transpose(0, 2, 3, 1).reshape(-1, height * width * ANCHORS, values)


class RetinaNet(nn.Cell):
    """Images ``(B, in_channels, H, W)`` to logits ``(B, A, num_classes)`` and deltas ``(B, A, 4)``.

    Args:
        backbone: the name of any model that gives feature maps.
        num_classes: of objects; there is no class for the background.
        channels: width of the neck and the head.
        convs: convolutions of each of the head's towers, before the last one.
        anchor_scale: side of the smallest anchors, in strides. It changes no parameter; whoever decodes needs it.
        **options: the backbone's own, such as ``drop_path_rate`` or LITv2's ``window_size``.

    Raises:
        InputError: no class, or the backbone does not give maps of strides 8, 16 and 32.
    """

    def __init__(self, backbone: str = "litv2_s", num_classes: int = 80, in_channels: int = 3, channels: int = 256,
                 convs: int = 4, anchor_scale: float = 4.0, **options):  # fmt: skip
        super().__init__()
        for name, value in (("num_classes", num_classes), ("channels", channels), ("anchor_scale", anchor_scale)):
            if value <= 0:
                raise InputError(f"{name} is {value}, but must be above 0.")
        self.backbone = create_backbone(backbone, STRIDES, "detection", in_channels, **options)
        self.neck = FPN(self.backbone.out_channels, channels, extra="conv_on_input")
        self.bbox_head = RetinaHead(num_classes, channels, convs)
        self.num_classes, self.anchor_scale = num_classes, anchor_scale

    def construct(self, x):
        return self.bbox_head(self.neck(self.backbone(x)))

    def no_weight_decay(self):
        """None: the official recipes decay every parameter, norms and biases too."""
        return []


@register_model
def retinanet(pretrained=False, **options) -> nn.Cell:
    """RetinaNet; options as in :class:`RetinaNet`."""
    refuse_pretrained("retinanet", pretrained)
    return RetinaNet(**options)

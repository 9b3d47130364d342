"""The three dense systems on LITv2 in plain PyTorch, written from their specification alone, in any precision.

What the project computes is compared with this where no reference numbers were recorded: other variants, windows and
sizes. A network is its dictionary of parameters by their official names; images are ``(B, 3, H, W)``.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

DEPTHS = {"s": (2, 2, 6, 2), "m": (2, 2, 18, 2), "b": (2, 2, 18, 2)}
WIDTHS = {"s": 96, "m": 96, "b": 128}
HEAD, ALPHA = 32, 0.9


class Network:
    """A forward pass by the parameters ``values``.

    Args:
        values: name to array; trained ones get gradients.
        window: of stage 3's attention.
        training: normalise by the statistics of the batch, which are kept in ``moved``.
    """

    def __init__(self, values, variant, window, training=False, dtype=torch.float64):
        self.values = {name: torch.as_tensor(np.array(value)).to(dtype) for name, value in values.items()}
        for name, value in self.values.items():
            value.requires_grad_(not name.rpartition(".")[2].startswith(("running_", "num_batches")))
        self.depths, self.width, self.window = DEPTHS[variant], WIDTHS[variant], window
        self.training, self.dtype, self.moved = training, dtype, {}

    def get(self, name):
        return self.values.get(name)

    def linear(self, name, x):
        return F.linear(x, self.values[f"{name}.weight"], self.get(f"{name}.bias"))

    def conv(self, name, x, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.values[f"{name}.weight"], self.get(f"{name}.bias"), stride, padding, 1, groups)

    def layer_norm(self, name, x):
        """Over the channels of ``(B, C, H, W)``."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.values[f"{name}.weight"], self.values[f"{name}.bias"], 1e-5)
        return x.permute(0, 3, 1, 2)

    def batch_norm(self, name, x):
        mean, variance = (self.values[f"{name}.running_{what}"].detach().clone() for what in ("mean", "var"))
        weight, bias = self.values[f"{name}.weight"], self.values[f"{name}.bias"]
        out = F.batch_norm(x, mean, variance, weight, bias, self.training, 0.1, 1e-5)
        self.moved[f"{name}.running_mean"], self.moved[f"{name}.running_var"] = mean, variance
        return out


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) * HEAD**-0.5, -1) @ v


def hilo(net, name, x, window):
    """``(B, C, H, W)``, normalised, to the same."""
    b, c, height, width = x.shape
    low = int(c // HEAD * ALPHA) if window > 1 else c // HEAD
    high = c // HEAD - low
    x = F.pad(x, (0, -width % window, 0, -height % window))
    rows, columns = x.shape[2] // window, x.shape[3] // window
    tokens = x.permute(0, 2, 3, 1)
    pooled = F.avg_pool2d(x, window).flatten(2).transpose(1, 2) if window > 1 else tokens.flatten(1, 2)
    q = net.linear(f"{name}.l_q", tokens.flatten(1, 2)).unflatten(-1, (low, HEAD)).transpose(1, 2)
    k, v = net.linear(f"{name}.l_kv", pooled).unflatten(-1, (2, low, HEAD)).permute(2, 0, 3, 1, 4)
    out = attend(q, k, v).transpose(1, 2).flatten(2).unflatten(1, x.shape[2:])
    parts = [net.linear(f"{name}.l_proj", out)]
    if high:
        qkv = net.linear(f"{name}.h_qkv", tokens).unflatten(-1, (3, high, HEAD))
        qkv = qkv.unflatten(2, (columns, window)).unflatten(1, (rows, window))
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6)  # (3, B, rows, columns, heads, window^2, 32)
        out = attend(q, k, v).unflatten(4, (window, window)).permute(0, 1, 4, 2, 5, 3, 6)
        parts.insert(0, net.linear(f"{name}.h_proj", out.reshape(b, *x.shape[2:], high * HEAD)))
    return torch.cat(parts, -1)[:, :height, :width].permute(0, 3, 1, 2)


def mlp(net, name, x):
    x = net.linear(f"{name}.fc1", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = F.gelu(net.conv(f"{name}.dwconv.dwconv", x, 1, 1, x.shape[1]))
    return net.linear(f"{name}.fc2", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def merge(net, name, x):
    """Deformable token merging: ``(B, C, H, W)`` to ``(B, 2C, H // 2, W // 2)``."""
    offset = net.conv(f"{name}.dconv.conv_offset", x, 2)
    rows, columns = offset.shape[2:]
    weight, sums = net.values[f"{name}.dconv.weight"], 0
    for tap in range(4):
        y = torch.arange(rows).view(1, -1, 1) * 2 + tap // 2 + offset[:, 2 * tap]
        x0 = torch.arange(columns).view(1, 1, -1) * 2 + tap % 2 + offset[:, 2 * tap + 1]
        sampled = bilinear(x, y, x0)  # (B, C, rows, columns)
        sums = sums + torch.einsum("dc,bchw->bdhw", weight[:, :, tap // 2, tap % 2], sampled)
    sums = sums + net.values[f"{name}.dconv.bias"].view(1, -1, 1, 1)
    return F.gelu(net.batch_norm(f"{name}.norm_layer", sums))


def bilinear(x, rows, columns):
    """Values of ``x`` at real positions ``(B, h, w)``, pixels outside the map being zero."""
    b, c, height, width = x.shape
    low_y, low_x = rows.detach().floor(), columns.detach().floor()
    total = 0
    for y, share_y in ((low_y, 1 - (rows - low_y)), (low_y + 1, rows - low_y)):
        for x0, share_x in ((low_x, 1 - (columns - low_x)), (low_x + 1, columns - low_x)):
            inside = (y >= 0) & (y < height) & (x0 >= 0) & (x0 < width)
            index = (y.clamp(0, height - 1) * width + x0.clamp(0, width - 1)).long().flatten(1)
            values = x.flatten(2).gather(2, index[:, None].expand(-1, c, -1)).view(b, c, *rows.shape[1:])
            total = total + values * (share_y * share_x * inside)[:, None]
    return total


def backbone(net, images, normalised, name="backbone"):
    """Four maps of strides 4 to 32; those in ``normalised`` pass a norm of their own."""
    x = F.pad(images.to(net.dtype), (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
    x = net.layer_norm(f"{name}.patch_embed.norm", net.conv(f"{name}.patch_embed.proj", x, 4))
    maps = []
    for stage, depth in enumerate(net.depths):
        window = (0, 0, net.window, 1)[stage]
        for block in range(depth):
            own = f"{name}.layers.{stage}.blocks.{block}"
            if window:
                x = x + hilo(net, f"{own}.attn", net.layer_norm(f"{own}.norm1", x), window)
            x = x + mlp(net, f"{own}.mlp", net.layer_norm(f"{own}.norm2", x))
        maps.append(net.layer_norm(f"{name}.norm{stage}", x) if stage in normalised else x)
        if stage < 3:
            x = merge(net, f"{name}.layers.{stage}.downsample", x)
    return maps


def pyramid(net, maps, extra):
    """The neck; ``extra`` as of :class:`mindcv_models.models.fpn.FPN`."""
    laterals = [net.conv(f"neck.lateral_convs.{k}.conv", x) for k, x in enumerate(maps)]
    for k in range(len(maps) - 1, 0, -1):
        laterals[k - 1] = laterals[k - 1] + F.interpolate(laterals[k], size=laterals[k - 1].shape[2:], mode="nearest")
    out = [net.conv(f"neck.fpn_convs.{k}.conv", x, 1, 1) for k, x in enumerate(laterals)]
    if extra == "conv_on_input":
        out.append(net.conv(f"neck.fpn_convs.{len(maps)}.conv", maps[-1], 2, 1))
        out.append(net.conv(f"neck.fpn_convs.{len(maps) + 1}.conv", out[-1], 2, 1))
    elif extra == "pool":
        out.append(F.max_pool2d(out[-1], 1, 2))
    return out


def retinanet(net, images):
    """The neck's maps, and classes and deltas of each as maps."""
    maps = pyramid(net, backbone(net, images, (1, 2, 3))[1:], "conv_on_input")
    outputs = []
    for x in maps:
        tower = {}
        for kind in ("cls", "reg"):
            y = x
            for k in range(4):
                y = F.relu(net.conv(f"bbox_head.{kind}_convs.{k}.conv", y, 1, 1))
            tower[kind] = net.conv(f"bbox_head.retina_{kind}", y, 1, 1)
        outputs.append((tower["cls"], tower["reg"]))
    return maps, outputs


def mask_rcnn(net, images):
    """The neck's maps, and objectness and deltas of each as maps."""
    maps = pyramid(net, backbone(net, images, (1, 2, 3)), "pool")
    hidden = [F.relu(net.conv("rpn_head.rpn_conv", x, 1, 1)) for x in maps]
    return maps, [(net.conv("rpn_head.rpn_cls", x), net.conv("rpn_head.rpn_reg", x)) for x in hidden]


def box_head(net, features):
    """Features ``(N, 256, 7, 7)`` to logits and deltas."""
    x = features.flatten(1)
    for k in range(2):
        x = F.relu(net.linear(f"roi_head.bbox_head.shared_fcs.{k}", x))
    return net.linear("roi_head.bbox_head.fc_cls", x), net.linear("roi_head.bbox_head.fc_reg", x)


def mask_head(net, features):
    """Features ``(N, 256, 14, 14)`` to logits ``(N, classes, 28, 28)``."""
    name = "roi_head.mask_head"
    for k in range(4):
        features = F.relu(net.conv(f"{name}.convs.{k}.conv", features, 1, 1))
    x = F.conv_transpose2d(features, net.values[f"{name}.upsample.weight"], net.get(f"{name}.upsample.bias"), 2)
    return net.conv(f"{name}.conv_logits", F.relu(x))


def roi_align(maps, rois, size, strides=(4, 8, 16, 32)):
    """Features ``(N, C, size, size)`` of rows (image, x1, y1, x2, y2), point after point."""
    out = []
    for image, *box in rois.tolist():
        area = (box[2] - box[0]) * (box[3] - box[1])
        level = min(max(math.floor(math.log2(math.sqrt(area) / 56 + 1e-6)), 0), 3)
        out.append(pooled(maps[level][int(image)], box, 1 / strides[level], size))
    return torch.stack(out) if out else maps[0].new_zeros(0, maps[0].shape[1], size, size)


def pooled(x, box, scale, size):
    """The features ``(C, size, size)`` of one box on one map ``(C, H, W)``."""
    x1, y1, x2, y2 = box
    rows, columns = points(y1, y2, scale, size), points(x1, x2, scale, size)
    if not rows.numel() or not columns.numel():
        return x.new_zeros(len(x), size, size)
    y = rows.flatten()[:, None].expand(-1, columns.numel())
    sampled = clamped(x, y, columns.flatten()[None].expand(rows.numel(), -1))
    return sampled.view(len(x), size, rows.shape[1], size, columns.shape[1]).mean((2, 4))


def points(start, end, scale, size):
    """Where an axis is sampled, ``(size, samples)``."""
    length = (end - start) * scale
    count = math.ceil(length / size) if length > 0 else 0
    bins, within = torch.arange(size).double()[:, None], torch.arange(count).double()[None]
    return start * scale - 0.5 + (bins + (within + 0.5) / max(count, 1)) * length / size


def clamped(x, rows, columns):
    """Bilinear values of ``(C, H, W)``; the border repeats for up to a pixel, beyond it is nothing."""
    _, height, width = x.shape
    inside = (rows >= -1) & (rows <= height) & (columns >= -1) & (columns <= width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return bilinear(x[None], rows[None].to(x.dtype), columns[None].to(x.dtype))[0] * inside


def semantic_fpn(net, images):
    """Logits at stride 4, and the neck's maps."""
    maps = pyramid(net, backbone(net, images, (0, 1, 2, 3)), None)
    total = 0
    for level, x in enumerate(maps):
        for k in range(max(1, level)):
            name = f"decode_head.scale_heads.{level}.{2 * k if level else 0}"
            x = F.relu(net.batch_norm(f"{name}.bn", net.conv(f"{name}.conv", x, 1, 1)))
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + F.interpolate(x, size=maps[0].shape[2:], mode="bilinear", align_corners=False)
    return net.conv("decode_head.conv_seg", total), maps


def segmentation_loss(logits, labels):
    """The mean cross entropy over all pixels of ``labels (B, H, W)``; those of 255 count as zeros."""
    logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=255, reduction="sum") / labels.numel()

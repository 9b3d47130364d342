"""Cases like the recorded ones that nobody recorded: python -m tests.helpers.dense_siblings FOLDER

Other variants, windows, sizes, class counts, batches and ground truths, answered by :mod:`tests.helpers.torch_dense`
and by the loops here, in float64 and from the specification alone. `python tests/dense_cases.py FOLDER` runs them.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tests.helpers import dense, parity
from tests.helpers import torch_dense as plain

LIMIT = abs(math.log(16 / 1000))
RETINANET, RPN = (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)


class Folder:
    """A folder of cases that grows."""

    def __init__(self, path):
        self.path, self.entries = Path(path), []
        self.path.mkdir(parents=True, exist_ok=True)

    def add(self, name, kind, arrays, **entry):
        np.savez(self.path / f"{name}.npz", **{key: single(value) for key, value in arrays.items()})
        self.entries.append({"id": name, "kind": kind, "file": f"{name}.npz", "salt": name, **entry})
        (self.path / "cases.json").write_text(json.dumps(self.entries), encoding="utf-8")


def single(value):
    """An array as the reference keeps it: real numbers in float32."""
    value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return value.astype(np.float32) if value.dtype == np.float64 else value


# ---- boxes, by loops


def anchors_of(shapes, strides, first):
    """``(A, 4)``; those of a cell are the recorded ones of ``first``, a case of tests/data/dense."""
    base = dense.case(first).arrays
    rows = [
        base[f"base_{stride}"] + np.float32([x, y, x, y]) * np.float32(stride)
        for (height, width), stride in zip(shapes, strides)
        for y in range(height)
        for x in range(width)
    ]
    return np.concatenate(rows)


def shapes_of(height, width, strides):
    """Rows and columns of each level's map, every one the half of the one before, rounded up."""
    shapes = [(-(-height // strides[0]), -(-width // strides[0]))]
    for _ in strides[1:]:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def inside(shapes, strides, pad, per_cell):
    """Which anchors belong to an image of the padded size ``pad``."""
    return np.array([
        x < math.ceil(pad[1] / stride) and y < math.ceil(pad[0] / stride)
        for (height, width), stride in zip(shapes, strides) for y in range(height) for x in range(width)
        for _ in range(per_cell)
    ])  # fmt: skip


def overlap(a, b):
    """IoU of two boxes, in their type."""
    zero, least = a.dtype.type(0), a.dtype.type(1e-6)
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), zero) * max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / max(union, least)


def assign(boxes, objects, positive, negative, least, valid=None):
    """-1, 0, or ``k`` for object ``k - 1``, for each box."""
    index = np.arange(len(boxes)) if valid is None else np.flatnonzero(valid)
    assigned = np.full(len(boxes), -1)
    if not len(objects):
        assigned[index] = 0
        return assigned
    table = np.array([[overlap(boxes[k], each) for each in objects] for k in index])
    for row, k in zip(table, index):
        assigned[k] = (
            row.argmax() + 1 if row.max() >= np.float32(positive) else 0 if row.max() < np.float32(negative) else -1
        )
    for g, column in enumerate(table.T):
        if column.max() >= np.float32(least):
            assigned[index[column == column.max()]] = g + 1
    return assigned


def deltas_to(boxes, objects, std=(1, 1, 1, 1)):
    a, b = boxes.astype(np.float64), objects.astype(np.float64)
    sides, own = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    moves = ((b[:, 2:] + b[:, :2]) - (a[:, 2:] + a[:, :2])) / 2 / sides
    return np.concatenate([moves, np.log(own / sides)], 1) / np.array(std)


def moved(boxes, deltas, size, std=(1, 1, 1, 1)):
    """Decoded boxes, clipped to ``size`` (height, width)."""
    a, d = boxes.astype(np.float64), deltas.astype(np.float64) * np.array(std)
    sides = a[:, 2:] - a[:, :2]
    centres = (a[:, 2:] + a[:, :2]) / 2 + d[:, :2] * sides
    half = sides * np.exp(np.clip(d[:, 2:], -LIMIT, LIMIT)) / 2
    return np.clip(np.concatenate([centres - half, centres + half], 1), 0, [size[1], size[0]] * 2)


def suppress(boxes, scores, labels, threshold, most):
    """Indices that stay, by descending score."""
    kept = []
    for k in np.argsort(-scores, kind="stable"):
        if all(labels[k] != labels[j] or overlap(boxes[k], boxes[j]) <= threshold for j in kept):
            kept.append(k)
        if len(kept) == most:
            break
    return np.array(kept, int)


def objects_in(rng, count, size, smallest=6.0):
    """``count`` boxes within an image of ``size``."""
    sides = rng.uniform(smallest, 0.7, (count, 2)) if smallest < 1 else rng.uniform(0.06, 0.7, (count, 2))
    sides = np.maximum(sides * size[::-1], smallest)
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(size[::-1]) - sides)
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)


def metas_of(*sizes):
    """Entries of images of these sizes (height, width), each padded to multiples of 32."""
    return [
        {"img_shape": [h, w, 3], "pad_shape": [-(-h // 32) * 32, -(-w // 32) * 32, 3], "scale_factor": [1.25, 1.2] * 2}
        for h, w in sizes
    ]


def batch_shape(metas):
    return np.max([meta["pad_shape"][:2] for meta in metas], 0).tolist()


# ---- networks


def values_of(system, variant, classes, salt):
    """Parameters by name, their shapes as ``classes`` asks."""
    factor = {"retina_cls": 9, "fc_cls": 1, "fc_reg": 4, "conv_logits": 1, "conv_seg": 1}
    values = {}
    for name, shape in parity.manifest("litv2")[f"{system}_litv2_{variant}"].items():
        layer = name.split(".")[-2]
        if layer in factor:
            shape = [factor[layer] * classes + (layer == "fc_cls"), *shape[1:]]
        values[name] = parity.parameter(name, shape, salt)
    return values


def network_of(system, variant, classes, window, name, training=False):
    return plain.Network(values_of(system, variant, classes, name), variant, window, training)


def images_of(metas_or_shape, name, count=None):
    shape = metas_or_shape if count else batch_shape(metas_or_shape)
    return torch.tensor(parity.images(count or len(metas_or_shape), *shape, name))


def numbers_of(net):
    """Names and norms of all gradients."""
    trained = [(name, value) for name, value in net.values.items() if value.requires_grad]
    return {
        "param_names": np.array([name for name, _ in trained]),
        "grad_norm": np.array([0.0 if value.grad is None else float(value.grad.norm()) for _, value in trained]),
    }


def trained(net, losses, rate, updates, spared=lambda name: False):
    """The losses before each of so many updates and after the last, with norms and statistics of the first step."""
    groups = [
        {"params": [v for n, v in net.values.items() if v.requires_grad and spared(n) == own], "weight_decay": decay}
        for own, decay in ((True, 0.0), (False, 1e-4))
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    rows, arrays = [], {}
    for update in range(updates + 1):
        optimizer.zero_grad()
        total, row = losses()
        rows.append([float(torch.as_tensor(each).detach()) for each in row])
        total.backward()
        if not update:
            arrays = numbers_of(net)
            arrays |= {f"bn_{name.replace('.', '_')}": value.clone() for name, value in net.moved.items()}
        optimizer.step()
    return {"losses": np.array(rows), **arrays}


def retinanet_forward(folder, name, variant, window, shape, count, classes):
    net = network_of("retinanet", variant, classes, window, name)
    with torch.no_grad():
        maps, outputs = plain.retinanet(net, images_of(shape, name, count))
    arrays = {f"fpn_{s}": x for s, x in zip(RETINANET, maps)}
    for stride, (cls, reg) in zip(RETINANET, outputs):
        arrays |= {f"cls_{stride}": cls, f"reg_{stride}": reg}
    folder.add(name, "retinanet_forward", arrays, variant=f"retinanet_litv2_{variant}", window=window,
               image_shape=[count, 3, *shape], num_classes=classes)  # fmt: skip


def retinanet_truth(metas, counts, classes, rng):
    """Objects, assignments, labels and deltas of a batch."""
    shapes = shapes_of(*batch_shape(metas), RETINANET)
    anchors, truth = anchors_of(shapes, RETINANET, "anchors_retinanet"), []
    for meta, count in zip(metas, counts):
        boxes, labels = objects_in(rng, count, meta["img_shape"][:2]), rng.integers(classes, size=count)
        valid = inside(shapes, RETINANET, meta["pad_shape"], 9)
        truth.append((boxes, labels, assign(anchors, boxes, 0.5, 0.4, 0.0, valid)))
    return anchors, truth


def retinanet_targets(folder, name, sizes, counts, classes):
    metas = metas_of(*sizes)
    anchors, truth = retinanet_truth(metas, counts, classes, np.random.default_rng(len(name)))
    rows = {key: [] for key in ("assigned", "labels", "label_weights", "bbox_targets", "bbox_weights")}
    arrays, total = {}, 0
    for k, (boxes, labels, assigned) in enumerate(truth):
        found = assigned > 0
        deltas = np.zeros((len(anchors), 4))
        deltas[found] = deltas_to(anchors[found], boxes[assigned[found] - 1])
        own = np.full(len(anchors), classes)
        own[found] = labels[assigned[found] - 1]
        weights = np.tile(found[:, None], 4).astype(np.float32)
        for key, value in zip(rows, (assigned, own, (assigned >= 0).astype(np.float32), deltas, weights)):
            rows[key].append(value)
        arrays |= {f"gt_bboxes_{k}": boxes, f"gt_labels_{k}": labels}
        total += max(1, int(found.sum()))
    folder.add(name, "retinanet_targets", arrays | rows, variant=None, num_classes=classes, metas=metas,
               num_total_pos=total)  # fmt: skip


def focal(logits, targets):
    p = torch.sigmoid(logits)
    cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return cost * torch.where(targets > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)


def retinanet_loss(folder, name, variant, window, sizes, counts, classes, rate=1e-5):
    metas = metas_of(*sizes)
    anchors, truth = retinanet_truth(metas, counts, classes, np.random.default_rng(7))
    net, images = network_of("retinanet", variant, classes, window, name, True), images_of(metas, name)
    counts_of_levels = [9 * h * w for h, w in shapes_of(*batch_shape(metas), RETINANET)]

    def parts(outputs, truth):
        divisor = sum(max(1, int((assigned > 0).sum())) for _, _, assigned in truth)
        rows = [[x.permute(0, 2, 3, 1).reshape(len(x), -1, n) for x, n in zip(pair, (classes, 4))] for pair in outputs]
        cls, reg = (torch.cat(each, 1) for each in zip(*rows))
        costs, moves = [], []
        for k, (boxes, labels, assigned) in enumerate(truth):
            hot = torch.zeros(len(anchors), classes, dtype=torch.float64)
            found = assigned > 0
            hot[np.flatnonzero(found), labels[assigned[found] - 1]] = 1
            costs.append(focal(cls[k], hot).sum(1) * torch.tensor(assigned >= 0))
            deltas = np.zeros((len(anchors), 4))
            deltas[found] = deltas_to(anchors[found], boxes[assigned[found] - 1])
            moves.append((reg[k] - torch.tensor(deltas)).abs().sum(1) * torch.tensor(found))
        cost, move = sum(costs) / divisor, sum(moves) / divisor
        return [torch.stack([part.sum() for part in each.split(counts_of_levels)]) for each in (cost, move)]

    def losses():
        cls, box = parts(plain.retinanet(net, images)[1], truth)
        return cls.sum() + box.sum(), (cls.sum(), box.sum())

    with torch.no_grad():
        outputs = plain.retinanet(net, images)[1]
        cls, box = parts(outputs, truth)
        empty = [(b[:0], lab[:0], np.minimum(a + 1, 1) - 1) for b, lab, a in retinanet_without(metas, truth, anchors)]
        one = [empty[k] if k == min(1, len(truth) - 1) else each for k, each in enumerate(truth)]
        without = [torch.stack([each.sum() for each in parts(outputs, own)]) for own in (one, empty)]
    arrays = {"level_cls": cls, "level_bbox": box, "empty1": without[0], "empty2": without[1]}
    for k, (boxes, labels, _) in enumerate(truth):
        arrays |= {f"gt_bboxes_{k}": boxes, f"gt_labels_{k}": labels}
    folder.add(name, "retinanet_loss", arrays | trained(net, losses, rate, 2), variant=f"retinanet_litv2_{variant}",
               window=window, image_shape=list(images.shape), num_classes=classes, metas=metas, lr=rate)  # fmt: skip


def retinanet_without(metas, truth, anchors):
    """The same images without objects: all valid anchors are background."""
    shapes = shapes_of(*batch_shape(metas), RETINANET)
    for meta, (boxes, labels, _) in zip(metas, truth):
        yield boxes, labels, np.where(inside(shapes, RETINANET, meta["pad_shape"], 9), 0, -1)


def retinanet_detect(folder, name, shape, sizes, classes, mean):
    rng = np.random.default_rng(11)
    shapes, metas, arrays = shapes_of(*shape, RETINANET), metas_of(*sizes), {}
    anchors = anchors_of(shapes, RETINANET, "anchors_retinanet")
    rows = []
    for stride, (h, w) in zip(RETINANET, shapes):
        cls = rng.normal(mean, 1.5, (len(sizes), 9 * classes, h, w)).astype(np.float32)
        reg = rng.normal(0, 0.5, (len(sizes), 36, h, w)).astype(np.float32)
        arrays |= {f"cls_{stride}": cls, f"reg_{stride}": reg}
        rows.append([x.transpose(0, 2, 3, 1).reshape(len(sizes), -1, n) for x, n in ((cls, classes), (reg, 4))])
    for k, meta in enumerate(metas):
        found = decode_levels([[x[k] for x in pair] for pair in rows], anchors, meta)
        arrays |= {f"det_{k}": found[0], f"labels_{k}": found[1]}
    folder.add(name, "retinanet_detect", arrays, variant=None, num_classes=classes, metas=metas, strides=RETINANET)


def decode_levels(rows, anchors, meta):
    boxes, scores, start = [], [], 0
    for logits, deltas in rows:
        own = 1 / (1 + np.exp(-logits.astype(np.float64)))
        best = np.argsort(-own.max(1), kind="stable")[:1000]
        boxes.append(moved(anchors[start : start + len(own)][best], deltas[best], meta["img_shape"]))
        scores.append(own[best])
        start += len(own)
    boxes, scores = np.concatenate(boxes) / np.array(meta["scale_factor"]), np.concatenate(scores)
    row, label = np.nonzero(scores > 0.05)
    kept = suppress(boxes[row], scores[row, label], label, 0.5, 100)
    row, label = row[kept], label[kept]
    return np.concatenate([boxes[row], scores[row, label][:, None]], 1), label


def regions_in(rng, count, size, image):
    """Rows (image, box): some large, some small, one of no area, one beyond the upper left corner."""
    boxes = objects_in(rng, count, size, 4.0)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1] -= boxes[1, [0, 1, 0, 1]] + 2
    return np.concatenate([np.full((count, 1), image, np.float32), boxes], 1)


def roi_align(folder, name, size, images):
    rng = np.random.default_rng(3)
    maps = [
        torch.tensor(parity.images(images, size[0] // s, size[1] // s, name)).double().requires_grad_() for s in RPN[:4]
    ]
    rois = np.concatenate([regions_in(rng, 9, size, k) for k in range(images)])
    areas = np.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]).astype(np.float64))
    arrays = {"rois": rois, "level": np.clip(np.floor(np.log2(areas / 56 + 1e-6)), 0, 3).astype(int)}
    total = 0
    for side in (7, 14):
        out = plain.roi_align(maps, rois, side)
        weights = rng.standard_normal(out.shape).astype(np.float32)
        total = total + (out * torch.tensor(weights)).sum()
        arrays |= {f"out{side}": out, f"g{side}": weights}
    total.backward()
    arrays |= {f"grad_{s}": torch.zeros_like(x) if x.grad is None else x.grad for s, x in zip(RPN, maps)}
    folder.add(name, "roi_align", arrays, variant=None, image_size=size, strides=RPN[:4])


def mask_rcnn_forward(folder, name, variant, window, sizes, classes):
    metas, rng = metas_of(*sizes), np.random.default_rng(5)
    net = network_of("mask_rcnn", variant, classes, window, name)
    rois = np.concatenate([regions_in(rng, 5, meta["img_shape"][:2], k) for k, meta in enumerate(metas)])
    with torch.no_grad():
        maps, outputs = plain.mask_rcnn(net, images_of(metas, name))
        seven, fourteen = plain.roi_align(maps, rois, 7), plain.roi_align(maps, rois, 14)
        (cls, reg), masks = plain.box_head(net, seven), plain.mask_head(net, fourteen)
    arrays = {
        "rois": rois,
        "roi_feat7": seven,
        "roi_feat14": fourteen,
        "roi_cls": cls,
        "roi_reg": reg,
        "roi_mask": masks,
    }
    for stride, x, (logits, deltas) in zip(RPN, maps, outputs):
        arrays |= {f"fpn_{stride}": x, f"rpn_cls_{stride}": logits, f"rpn_reg_{stride}": deltas}
    arrays |= proposals_of(outputs, metas)
    folder.add(name, "mask_rcnn_forward", arrays, variant=f"mask_rcnn_litv2_{variant}", window=window,
               image_shape=[len(sizes), 3, *batch_shape(metas)], num_classes=classes, metas=metas)  # fmt: skip


def proposals_of(outputs, metas, most=200):
    """Regions of each image when ``most`` of a level are kept."""
    shapes = [tuple(logits.shape[2:]) for logits, _ in outputs]
    anchors = np.split(anchors_of(shapes, RPN, "anchors_rpn"), np.cumsum([3 * h * w for h, w in shapes])[:-1])
    arrays = {}
    for k, meta in enumerate(metas):
        boxes, scores, levels = [], [], []
        for level, (logits, deltas) in enumerate(outputs):
            own = torch.sigmoid(logits[k].float().double()).permute(1, 2, 0).reshape(-1).numpy()
            moves = deltas[k].float().permute(1, 2, 0).reshape(-1, 4).numpy()
            best = np.argsort(-own, kind="stable")[:most]
            boxes.append(moved(anchors[level][best], moves[best], meta["img_shape"]))
            scores.append(own[best])
            levels.append(np.full(len(best), level))
        boxes, scores = np.concatenate(boxes), np.concatenate(scores)
        kept = suppress(boxes, scores, np.concatenate(levels), 0.7, 1000)
        arrays[f"proposals_pre{most}_{k}"] = np.concatenate([boxes[kept], scores[kept, None]], 1)
    return arrays


class TwoStages:
    """Everything that training Mask R-CNN compares, for one image."""

    def __init__(self, meta, anchors, shapes, count, classes, rng):
        size, pad = meta["img_shape"][:2], meta["pad_shape"][:2]
        self.anchors, self.boxes, self.labels = anchors, objects_in(rng, count, size), rng.integers(classes, size=count)
        self.masks = np.array([ellipse(box, pad) for box in self.boxes], np.uint8).reshape(count, *pad)
        self.first = assign(anchors, self.boxes, 0.7, 0.3, 0.3, inside(shapes, RPN, pad, 3))
        self.first_pos = np.sort(rng.permutation(np.flatnonzero(self.first > 0))[:128])
        self.first_neg = np.sort(rng.permutation(np.flatnonzero(self.first == 0))[: 256 - len(self.first_pos)])
        near = np.repeat(self.boxes, 4, 0) + rng.normal(0, 2, (4 * count, 4)).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        self.proposals = np.concatenate([near, objects_in(rng, 15, size)]).astype(np.float32)
        self.second = assign(self.proposals, self.boxes, 0.5, 0.5, 0.5)
        owners = np.concatenate([np.arange(count), self.second - 1])
        self.second_pos, self.second_neg = np.flatnonzero(owners >= 0), np.flatnonzero(owners < 0)
        self.owners = owners[self.second_pos]
        chosen = np.concatenate([self.second_pos, self.second_neg])
        self.regions = np.concatenate([self.boxes, self.proposals])[chosen]
        own = np.full(len(self.second_neg), classes)
        self.region_labels = np.concatenate([self.labels[self.owners], own]).astype(int)

    def first_deltas(self):
        return deltas_to(self.anchors[self.first_pos], self.boxes[self.first[self.first_pos] - 1])

    def second_deltas(self):
        return deltas_to(self.regions[: len(self.owners)], self.boxes[self.owners], (0.1, 0.1, 0.2, 0.2))

    def mask_targets(self):
        """``(P, 28, 28)`` of 0 and 1."""
        height, width = self.masks.shape[1:]
        targets = np.zeros((len(self.owners), 28, 28), np.uint8)
        for target, box, owner in zip(targets, self.regions, self.owners):
            box = np.clip(box, 0, [width, height, width, height]).tolist()
            target[:] = plain.pooled(torch.tensor(self.masks[owner][None]).double(), box, 1, 28)[0] >= 0.5
        return targets

    def arrays(self, k):
        return {
            f"gt_bboxes_{k}": self.boxes, f"gt_labels_{k}": self.labels, f"proposals_{k}": self.proposals,
            f"gt_masks_{k}": np.packbits(self.masks.reshape(len(self.masks), self.masks[:1].size or 8), axis=1),
            f"rpn_pos_{k}": self.first_pos, f"rpn_neg_{k}": self.first_neg,
            f"roi_pos_{k}": self.second_pos, f"roi_neg_{k}": self.second_neg,
        }  # fmt: skip


def ellipse(box, size):
    """A bitmap of the ellipse within a box."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return (((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2) <= 1


def two_stages(sizes, counts, classes):
    metas, rng = metas_of(*sizes), np.random.default_rng(13)
    shapes = shapes_of(*batch_shape(metas), RPN)
    anchors = anchors_of(shapes, RPN, "anchors_rpn")
    images = [TwoStages(meta, anchors, shapes, count, classes, rng) for meta, count in zip(metas, counts)]
    packed = {f"gt_masks_{k}": list(each.masks.shape) for k, each in enumerate(images)}
    arrays = {key: value for k, each in enumerate(images) for key, value in each.arrays(k).items()}
    return metas, images, arrays, packed


def mask_rcnn_targets(folder, name, sizes, counts, classes):
    metas, images, arrays, packed = two_stages(sizes, counts, classes)
    shape = (len(images), len(images[0].anchors))
    labels, weights = np.ones(shape, np.int8), np.zeros(shape, np.int8)
    deltas, box_weights, factor = np.zeros((*shape, 4)), np.zeros((*shape, 4), np.int8), 0
    for k, each in enumerate(images):
        labels[k, each.first_pos], weights[k, np.concatenate([each.first_pos, each.first_neg])] = 0, 1
        deltas[k, each.first_pos], box_weights[k, each.first_pos] = each.first_deltas(), 1
        factor += max(1, len(each.first_pos)) + max(1, len(each.first_neg))
        arrays |= {f"rpn_assigned_{k}": each.first, f"roi_assigned_{k}": each.second, f"pos_gt_{k}": each.owners}
    found = [np.arange(len(each.regions)) < len(each.owners) for each in images]
    moves = [np.zeros((len(each.regions), 4)) for each in images]
    for each, own, mine in zip(images, moves, found):
        own[mine] = each.second_deltas()
    masks = np.concatenate([each.mask_targets() for each in images])
    arrays |= {
        "rpn_labels": labels, "rpn_label_weights": weights, "rpn_bbox_targets": deltas, "rpn_bbox_weights": box_weights,
        "labels": np.concatenate([each.region_labels for each in images]), "bbox_targets": np.concatenate(moves),
        "bbox_weights": np.repeat(np.concatenate(found)[:, None], 4, 1).astype(np.float32),
        "mask_targets": np.packbits(masks.reshape(len(masks), 784), axis=1),
    }  # fmt: skip
    folder.add(name, "mask_rcnn_targets", arrays, variant=None, num_classes=classes, metas=metas, rpn_avg_factor=factor,
               packed=packed | {"mask_targets": list(masks.shape)})  # fmt: skip


def mask_rcnn_loss(folder, name, variant, window, sizes, counts, classes, rate=1e-5):
    metas, images, arrays, packed = two_stages(sizes, counts, classes)
    net, pixels = network_of("mask_rcnn", variant, classes, window, name, True), images_of(metas, name)
    rois = np.concatenate([np.insert(each.regions, 0, k, 1) for k, each in enumerate(images)])
    labels = torch.tensor(np.concatenate([each.region_labels for each in images]))
    own = torch.nonzero(labels < classes)[:, 0]
    deltas = torch.tensor(np.concatenate([each.second_deltas() for each in images]))
    masks = torch.tensor(np.concatenate([each.mask_targets() for each in images])).double()

    def losses():
        maps, outputs = plain.mask_rcnn(net, pixels)
        first = first_losses(outputs, images)
        logits, moves = plain.box_head(net, plain.roi_align(maps, rois, 7))
        cls = F.cross_entropy(logits, labels)
        moves = moves.view(len(labels), classes, 4)[own, labels[own]]
        box = (moves - deltas).abs().sum() / len(labels)
        mask = logits.sum() * 0
        if len(own):
            planes = plain.mask_head(net, plain.roi_align(maps, rois[own.numpy()], 14))
            mask = F.binary_cross_entropy_with_logits(planes[torch.arange(len(own)), labels[own]], masks)
        parts = (*first, cls, box, mask)
        return sum(parts), (*parts, 100 * (logits.argmax(1) == labels).double().mean())

    arrays |= trained(net, losses, rate, 1, lambda name: "norm" in name)
    folder.add(name, "mask_rcnn_loss", arrays, variant=f"mask_rcnn_litv2_{variant}", window=window, metas=metas,
               lr=rate, image_shape=list(pixels.shape), num_classes=classes, packed=packed)  # fmt: skip


def first_losses(outputs, images):
    """Of the sampled anchors of a batch, by the maps of logits and deltas."""
    logits, deltas = (
        torch.cat([pair[k].permute(0, 2, 3, 1).reshape(len(images), -1, n) for pair in outputs], 1)
        for k, n in ((0, 1), (1, 4))
    )
    cls, box, divisor = 0, 0, 0
    for k, each in enumerate(images):
        chosen = np.concatenate([each.first_pos, each.first_neg])
        truth = torch.tensor(each.first[chosen] > 0).double()
        cls = cls + F.binary_cross_entropy_with_logits(logits[k, chosen, 0], truth, reduction="sum")
        box = box + (deltas[k, each.first_pos] - torch.tensor(each.first_deltas())).abs().sum()
        divisor += max(1, len(each.first_pos)) + max(1, len(each.first_neg))
    return cls / divisor, box / divisor


def mask_rcnn_detect(folder, name, classes, background):
    rng = np.random.default_rng(classes)
    meta = {"img_shape": [90, 140, 3], "ori_shape": [61, 117, 3], "scale_factor": [140 / 117, 90 / 61] * 2}
    boxes = np.concatenate([objects_in(rng, 30, (90, 140)), rng.uniform(size=(30, 1)).astype(np.float32)], 1)
    boxes[3, 1], boxes[3, 3] = 0, 0  # taken for no region
    logits = rng.normal(0, 2, (30, classes + 1)).astype(np.float32)
    logits[:, -1] += np.float32(background)
    deltas = rng.normal(0, 0.7, (30, 4 * classes)).astype(np.float32)
    scores = torch.softmax(torch.tensor(logits).double(), 1).numpy()[:, :-1] * (boxes[:, 3:4] != 0)
    row, label = np.nonzero(scores > 0.05)
    found = moved(boxes[row, :4], deltas.reshape(30, classes, 4)[row, label], meta["img_shape"], (0.1, 0.1, 0.2, 0.2))
    found = found / np.array(meta["scale_factor"])
    kept = suppress(found, scores[row, label], label, 0.5, 100)
    found, row, label = found[kept], row[kept], label[kept]
    masks = rng.normal(0, 3, (len(kept), classes, 28, 28)).astype(np.float32)
    pasted = np.zeros((len(kept), 61, 117), bool)
    for mask, own, box, c in zip(pasted, masks, found, label):
        paste(mask, 1 / (1 + np.exp(-own[c].astype(np.float64))), box)
    arrays = {
        "proposals": boxes, "cls_score": logits, "bbox_pred": deltas, "mask_logits": masks,
        "det": np.concatenate([found, scores[row, label][:, None]], 1), "labels": label,
        "mask_rois": np.concatenate([np.zeros((len(kept), 1)), found * np.array(meta["scale_factor"])], 1),
        "masks": np.packbits(pasted.reshape(len(kept), 61 * 117), axis=1),
    }  # fmt: skip
    folder.add(name, "mask_rcnn_detect", arrays, variant=None, num_classes=classes, metas=[meta],
               packed={"masks": list(pasted.shape)})  # fmt: skip


def paste(mask, values, box):
    """Pixel after pixel."""
    x1, y1, x2, y2 = box
    padded = np.pad(values, 1)  # zeros around
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            u, v = (x + 0.5 - x1) / (x2 - x1) * 28 - 0.5, (y + 0.5 - y1) / (y2 - y1) * 28 - 0.5
            if -1 < u < 28 and -1 < v < 28:
                i, j = math.floor(v), math.floor(u)
                rows, columns = np.array([1 - (v - i), v - i]), np.array([1 - (u - j), u - j])
                mask[y, x] = rows @ padded[i + 1 : i + 3, j + 1 : j + 3] @ columns >= 0.5


def labels_of(rng, shape, classes, ignored=0.2):
    labels = rng.integers(classes, size=shape)
    return np.where(rng.random(shape) < ignored, 255, labels).astype(np.uint8)


def semantic_fpn_forward(folder, name, variant, window, shape, count, classes):
    net = network_of("semantic_fpn", variant, classes, window, name)
    with torch.no_grad():
        logits, maps = plain.semantic_fpn(net, images_of(shape, name, count))
    arrays = {"logits": logits, **{f"fpn_{s}": x for s, x in zip((4, 8, 16, 32), maps)}}
    folder.add(name, "semantic_fpn_forward", arrays, variant=f"semantic_fpn_litv2_{variant}", window=window,
               image_shape=[count, 3, *shape], num_classes=classes)  # fmt: skip


def semantic_fpn_loss(folder, name, variant, window, shape, count, classes, rate=2e-6):
    net, images = network_of("semantic_fpn", variant, classes, window, name, True), images_of(shape, name, count)
    labels = labels_of(np.random.default_rng(2), (count, *shape), classes)

    def losses():
        logits = plain.semantic_fpn(net, images)[0]
        full = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
        right = (full.argmax(1).numpy() == labels).mean() * 100
        loss = plain.segmentation_loss(logits, torch.tensor(labels).long())
        return loss, (loss, right)

    folder.add(name, "semantic_fpn_loss", {"labels": labels, **trained(net, losses, rate, 2)}, lr=rate, window=window,
               variant=f"semantic_fpn_litv2_{variant}", image_shape=[count, 3, *shape], num_classes=classes,
               loss_if_all_ignored=0.0)  # fmt: skip


def semantic_fpn_infer(folder, name, variant, window, shape, original, classes):
    net = network_of("semantic_fpn", variant, classes, window, name)
    with torch.no_grad():
        head = plain.semantic_fpn(net, images_of(shape, name, 1))[0]
        logits = head
        for size in (shape, original):
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    best = logits[0].topk(2, 0)[0]
    near = (best[0] - best[1] < 1e-3).numpy()
    arrays = {"head_logits": head, "logits": logits, "pred": logits[0].argmax(0), "near_tie": np.packbits(near)}
    folder.add(name, "semantic_fpn_infer", arrays, variant=f"semantic_fpn_litv2_{variant}", window=window,
               image_shape=[1, 3, *shape], ori_shape=original, num_classes=classes)  # fmt: skip


# Without a network.
QUICK = {
    "targets_of_three": partial(retinanet_targets, sizes=[(60, 90), (64, 33), (10, 12)], counts=[6, 1, 0], classes=5),
    "targets_of_nothing": partial(retinanet_targets, sizes=[(40, 60)], counts=[0], classes=1),
    "detect_one_class": partial(retinanet_detect, shape=(64, 96), sizes=[(60, 90), (64, 96)], classes=1, mean=-3.5),
    "detect_nothing": partial(retinanet_detect, shape=(32, 64), sizes=[(31, 64)], classes=7, mean=-12),
    "regions_of_three": partial(roi_align, size=(96, 160), images=3),
    "regions_of_one": partial(roi_align, size=(32, 224), images=1),
    "masks_of_three_classes": partial(mask_rcnn_detect, classes=3, background=0),
    "masks_of_nothing": partial(mask_rcnn_detect, classes=2, background=99),
}
# With a network of full depth, or with a graph that takes its time to compile.
SLOW = {
    "regions_and_masks_of_three": partial(
        mask_rcnn_targets, sizes=[(60, 90), (64, 33), (50, 96)], counts=[4, 0, 1], classes=3
    ),
    "regions_and_masks_of_nothing": partial(mask_rcnn_targets, sizes=[(30, 40)], counts=[0], classes=2),
    "semantic_fpn_s_of_three": partial(semantic_fpn_loss, variant="s", window=4, shape=(64, 96), count=3, classes=11),
    "retinanet_s_ws4_loss": partial(
        retinanet_loss, variant="s", window=4, sizes=[(60, 90), (64, 33), (50, 96)], counts=[4, 1, 0], classes=7
    ),
    "mask_rcnn_s_ws4_loss": partial(
        mask_rcnn_loss, variant="s", window=4, sizes=[(60, 90), (64, 33), (50, 96)], counts=[4, 0, 1], classes=3
    ),
    "mask_rcnn_s_nothing": partial(mask_rcnn_loss, variant="s", window=2, sizes=[(60, 64)], counts=[0], classes=1),
    "mask_rcnn_m_ws4": partial(mask_rcnn_forward, variant="m", window=4, sizes=[(70, 130)], classes=3),
    "retinanet_m_ws4": partial(retinanet_forward, variant="m", window=4, shape=(74, 110), count=1, classes=5),
    "semantic_fpn_b_infer": partial(
        semantic_fpn_infer, variant="b", window=2, shape=(37, 50), original=(61, 44), classes=20
    ),
    "retinanet_b_ws2": partial(retinanet_forward, variant="b", window=2, shape=(32, 33), count=2, classes=80),
    "semantic_fpn_m": partial(semantic_fpn_forward, variant="m", window=2, shape=(45, 70), count=3, classes=150),
}


def quick(folder):
    for name, make in QUICK.items():
        make(folder, name)


if __name__ == "__main__":
    folder = Folder(sys.argv[1])
    for name, make in (QUICK | SLOW).items():
        make(folder, name)

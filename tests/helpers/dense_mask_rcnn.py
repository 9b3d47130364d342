"""Reference cases of Mask R-CNN."""

from typing import Iterator, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_models.detection.anchors import RPN
from mindcv_models.detection.assign import RETINANET, ROI_HEAD, assign
from mindcv_models.detection.assign import RPN as RPN_THRESHOLDS
from mindcv_models.detection.boxes import STD, iou
from mindcv_models.detection.mask_targets import MaskTargets
from mindcv_models.detection.masks import RunLengths, pack
from mindcv_models.detection.paste import detect_regions, mask_regions, paste
from mindcv_models.detection.regions import Proposals, encode, rows_of, sample_regions
from mindcv_models.detection.regions import assign as assign_in_graph
from mindcv_models.detection.regions import iou as iou_in_graph
from mindcv_models.detection.two_stage import MaskRCNNObjective, rpn_losses, sampled_targets
from mindcv_models.layers import RoIAlign
from tests.helpers import dense, parity
from tests.helpers.dense import Case, Difference, compare, compare_array, exact, kind
from tests.helpers.dense_detection import stored_anchors


def by_image(rois: np.ndarray, images: int) -> Tuple[np.ndarray, Tuple[np.ndarray, np.ndarray]]:
    """Rows (image, box) as boxes ``(B, R, 4)``, zeros where an image has fewer, and where each row went."""
    counts = [0] * images
    places = []
    for image in rois[:, 0].astype(int):
        places.append((image, counts[image]))
        counts[image] += 1
    boxes, places = np.zeros((images, max(counts), 4), np.float32), tuple(np.array(places).T)
    boxes[places] = rois[:, 1:]
    return boxes, places


def padded(rows: List[np.ndarray], fill=0) -> np.ndarray:
    """Arrays of different length as one, ``(B, longest, ...)``, of at least one row."""
    out = np.full((len(rows), max(1, *map(len, rows)), *rows[0].shape[1:]), fill, rows[0].dtype)
    for target, row in zip(out, rows):
        target[: len(row)] = row
    return out


def arrays(case: Case, name: str) -> List[np.ndarray]:
    return [case.arrays[f"{name}_{i}"] for i in range(len(case["metas"]))]


def sizes(case: Case) -> np.ndarray:
    return np.array([meta["img_shape"][:2] for meta in case["metas"]], np.float32)


class Pooled(nn.Cell):
    """The weighted sum of the features of both sizes, and these."""

    def __init__(self, strides):
        super().__init__()
        self.small, self.large = RoIAlign(7, strides), RoIAlign(14, strides)

    def construct(self, a, b, c, d, boxes, weights7, weights14):
        maps = (a, b, c, d)
        seven, fourteen = self.small(maps, boxes), self.large(maps, boxes)
        return (seven * weights7).sum() + (fourteen * weights14).sum(), seven, fourteen


@kind("roi_align")
def roi_align(case: Case) -> Iterator[Difference]:
    height, width = case["image_size"]
    count = 1 + int(case.arrays["rois"][:, 0].max())
    maps = [ms.Tensor(parity.images(count, height // s, width // s, case["salt"])) for s in case["strides"]]
    boxes, places = by_image(case.arrays["rois"], count)
    weights = []
    for size in (7, 14):
        weights.append(np.zeros((*boxes.shape[:2], maps[0].shape[1], size, size), np.float32))
        weights[-1][places] = case.arrays[f"g{size}"]
    network = Pooled(case["strides"])
    step = ms.value_and_grad(network, (0, 1, 2, 3), has_aux=True)
    (_, seven, fourteen), gradients = step(*maps, ms.Tensor(boxes), *map(ms.Tensor, weights))
    yield exact("level", network.small.levels(ms.Tensor(boxes)).asnumpy()[places], case.arrays["level"])
    yield compare("out7", seven.asnumpy()[places], case.arrays["out7"], 1e-4)
    yield compare("out14", fourteen.asnumpy()[places], case.arrays["out14"], 1e-4)
    for stride, gradient in zip(case["strides"], gradients):
        yield compare(f"grad_{stride}", gradient.asnumpy(), case.arrays[f"grad_{stride}"], 2e-4)


class Outputs(nn.Cell):
    """All that the network computes of images and given regions."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x, boxes):
        logits, deltas, maps = self.network(x)
        head = self.network.roi_head
        features = head.box_features(maps, boxes), head.mask_features(maps, boxes)
        return logits, deltas, maps, features, head.boxes(maps, boxes), head.masks(maps, boxes)


class Chosen(nn.Cell):
    """:class:`Proposals` of given maps."""

    def __init__(self, per_level, shapes):
        super().__init__()
        self.proposals, self.shapes = Proposals(per_level), shapes

    def construct(self, logits, deltas, sizes):
        return self.proposals(logits, deltas, sizes, self.shapes)


def build(case: Case) -> nn.Cell:
    return dense.build(case, "mask_rcnn", window_size=case.get("window", 2))


@kind("mask_rcnn_forward")
def forward(case: Case) -> Iterator[Difference]:
    count = case["image_shape"][0]
    boxes, (image, row) = by_image(case.arrays["rois"], count)
    logits, deltas, maps, features, (cls, reg), masks = Outputs(build(case))(dense.images(case), ms.Tensor(boxes))
    row = image * boxes.shape[1] + row
    for k, stride in enumerate(RPN.strides):
        shape = maps[k].shape[2:]
        for name, value, values in (("cls", logits, 1), ("reg", deltas, 4)):
            found = value[k].asnumpy().reshape(count, *shape, 3 * values).transpose(0, 3, 1, 2)
            yield from compare_array(case, f"rpn_{name}_{stride}", found, 2e-4)
        yield from compare_array(case, f"fpn_{stride}", maps[k].asnumpy(), 3e-4)
    for name, value in zip(("roi_feat7", "roi_feat14"), features):
        yield from compare_array(case, name, value.asnumpy().reshape(-1, *value.shape[2:])[row], 3e-4)
    yield from compare_array(case, "roi_cls", cls.asnumpy()[row], 2e-4)
    yield from compare_array(case, "roi_reg", reg.asnumpy()[row], 2e-4)
    yield from compare_array(case, "roi_mask", masks.asnumpy()[row], 1e-4)
    yield from proposals(case)


def proposals(case: Case) -> Iterator[Difference]:
    """The regions chosen from the stored outputs of the first stage."""
    stored = [[case.arrays[f"rpn_{name}_{stride}"] for stride in RPN.strides] for name in ("cls", "reg")]
    shapes = tuple(x.shape[2:] for x in stored[0])
    logits = tuple(ms.Tensor(x.transpose(0, 2, 3, 1).reshape(len(x), -1)) for x in stored[0])
    deltas = tuple(ms.Tensor(x.transpose(0, 2, 3, 1).reshape(len(x), -1, 4)) for x in stored[1])
    for name in sorted({key.rpartition("_")[0] for key in case.arrays if key.startswith("proposals_")}):
        setting = name.removeprefix("proposals_")
        per_level = {"test": 1000, "train": 2000}.get(setting) or int(setting.removeprefix("pre"))
        found = Chosen(per_level, shapes)(logits, deltas, ms.Tensor(sizes(case)))
        for i, reference in enumerate(arrays(case, name)):
            boxes, scores, counts = (each.asnumpy()[i] for each in found)
            end = int(counts.sum())
            ours = np.concatenate([boxes, scores[:, None]], 1)[:end]
            yield exact(f"number of {name}_{i}", counts, np.arange(len(counts)) < len(reference))
            yield Difference(f"{name}_{i}", farthest(reference, ours), 1e-3)


def farthest(reference: np.ndarray, found: np.ndarray) -> float:
    """How far the box of a row (box, score) is from the nearest of those of its score; infinite where there is none."""
    same = np.abs(reference[:, None, 4] - found[None, :, 4]) <= 1e-6
    distance = np.abs(reference[:, None, :4] - found[None, :, :4]).max(2)
    return float(np.where(same, distance, np.inf).min(1, initial=np.inf).max(initial=0))


def rising_draws(count: int, chosen: np.ndarray) -> np.ndarray:
    """Random numbers of which a sampler takes just the ``chosen`` rows, in rising order."""
    draws = np.full(count, 0.1, np.float32)
    draws[chosen] = 0.9 - 0.5 * np.sort(chosen) / count
    return draws


def recorded(case: Case):
    """Regions, which count, objects' boxes, classes and draws that lead to the recorded samples, padded."""
    regions, boxes = arrays(case, "proposals"), arrays(case, "gt_bboxes")
    rows, objects = max(1, *map(len, regions)), max(1, *map(len, boxes))
    draws = np.zeros((len(boxes), objects + rows), np.float32)
    for i, (positive, negative) in enumerate(zip(arrays(case, "roi_pos"), arrays(case, "roi_neg"))):
        chosen = np.sort(np.concatenate([positive, negative]))
        own = len(boxes[i])
        draws[i] = rising_draws(objects + rows, np.where(chosen < own, chosen, chosen - own + objects))
    counts = padded([np.ones(len(row), np.float32) for row in regions])
    labels = padded([row.astype(np.int32) for row in arrays(case, "gt_labels")], -1)
    return padded(regions), counts, padded(boxes), labels, draws


def packed_masks(case: Case, rows: int):
    """Crops and places of the objects' masks of all images."""
    packed = []
    for i in range(len(case["metas"])):
        bitmaps = case.unpacked(f"gt_masks_{i}")
        masks = [RunLengths.of_bitmap(bitmap) for bitmap in bitmaps]
        boxes = np.array([mask.box() for mask in masks], np.float32).reshape(-1, 4)
        packed.append(pack(masks, boxes, bitmaps.shape[1:], False, rows, 1 << 17))
    return tuple(np.stack(column) for column in zip(*packed))


def first_stage(case: Case, anchors: np.ndarray, valid: np.ndarray):
    """For each image: the assignment ``(A,)``, and what :func:`rpn_targets` gives for the recorded samples."""
    for i, boxes in enumerate(arrays(case, "gt_bboxes")):
        assigned = np.full(len(anchors), -1)
        assigned[valid[i]] = assign(iou(anchors[valid[i]], boxes), RPN_THRESHOLDS)
        yield (
            assigned,
            sampled_targets(anchors, boxes, assigned, case.arrays[f"rpn_pos_{i}"], case.arrays[f"rpn_neg_{i}"], 256),
        )


def rpn_anchors(case: Case) -> Tuple[np.ndarray, np.ndarray]:
    """The anchors of the batch and which are valid in each image; the stored ones if they are there."""
    pads = [meta["pad_shape"][:2] for meta in case["metas"]]
    shapes = RPN.sizes(*np.max(pads, 0))
    return stored_anchors(case, RPN.all(shapes)), np.stack([RPN.valid(shapes, pad) for pad in pads])


class SecondStage(nn.Cell):
    """Assignment, samples and targets of the second stage."""

    def __init__(self, num_classes, shape):
        super().__init__()
        self.masks, self.num_classes, self.shape = MaskTargets(), num_classes, shape

    def construct(self, regions, counts, boxes, labels, draws, crops, places, padded):
        exists = (labels >= 0).astype(ms.float32)
        assigned = assign_in_graph(iou_in_graph(regions, boxes), counts, exists)
        regions, labels, owners, objects = sample_regions(regions, counts, boxes, labels, draws, self.num_classes)
        deltas = encode(regions, rows_of(boxes, owners), objects, STD)
        masks = self.masks(regions[:, :128], owners[:, :128], crops, places, padded, self.shape)
        return assigned, labels, owners, objects, deltas, masks


@kind("mask_rcnn_targets")
def targets(case: Case) -> Iterator[Difference]:
    yield from first_stage_targets(case)
    batch = recorded(case)
    pads = np.array([meta["pad_shape"][:2] for meta in case["metas"]], np.float32)
    batch += (*packed_masks(case, batch[2].shape[1]), pads)
    network = SecondStage(case["num_classes"], tuple(int(side) for side in pads.max(0)))
    found = [each.asnumpy() for each in network(*map(ms.Tensor, batch))]
    assigned, labels, owners, objects, deltas, masks = found
    for i, reference in enumerate(arrays(case, "roi_assigned")):
        yield exact(f"assignment of regions of image {i}", assigned[i, : len(reference)], reference)
        yield exact(f"owners of image {i}", owners[i][objects[i] > 0], case.arrays[f"pos_gt_{i}"])
    taken = labels >= 0
    yield exact("labels", labels[taken], case.arrays["labels"])
    yield compare("deltas", deltas[taken], case.arrays["bbox_targets"], 1e-5)
    yield exact("weights of deltas", np.tile(objects[taken][:, None], 4), case.arrays["bbox_weights"])
    masks = masks[objects[:, : masks.shape[1]] > 0]
    ties = len(case.arrays.get("mask_near_tie", ()))
    differing = exact("pixels of mask targets beside near ties", masks, case.unpacked("mask_targets"))
    yield Difference(differing.what, max(differing.value - ties, 0.0), 0)
    yield from small_assignments(case)


def first_stage_targets(case: Case) -> Iterator[Difference]:
    anchors, valid = rpn_anchors(case)
    labels, weights = np.ones((2, len(valid), len(anchors)), np.int8)
    weights[:] = 0
    deltas = np.zeros((len(valid), len(anchors), 4), np.float32)
    box_weights, divisor = np.zeros_like(deltas), 0
    for i, (assigned, (index, kinds, moves)) in enumerate(first_stage(case, anchors, valid)):
        yield exact(f"assignment of anchors of image {i}", assigned, case.arrays[f"rpn_assigned_{i}"])
        labels[i, index[kinds == 1]], weights[i, index[kinds >= 0]] = 0, 1
        deltas[i, index[kinds == 1]], box_weights[i, index[kinds == 1]] = moves[kinds == 1], 1
        divisor += max(1, (kinds == 1).sum()) + max(1, (kinds == 0).sum())
    yield exact("rpn_labels", labels, case.arrays["rpn_labels"])
    yield exact("rpn_label_weights", weights, case.arrays["rpn_label_weights"])
    yield exact("rpn_bbox_weights", box_weights, case.arrays["rpn_bbox_weights"])
    yield compare("rpn_bbox_targets", deltas, case.arrays["rpn_bbox_targets"], 1e-5)
    yield exact("divisor of the first stage", divisor, case["rpn_avg_factor"])


def small_assignments(case: Case) -> Iterator[Difference]:
    """The assigner alone, with all three settings; for the second stage the one in the graph too."""
    if "small_boxes" not in case.arrays:
        return
    boxes, few = case.arrays["small_boxes"], case.arrays["small_gts"]
    for prefix, objects in (("small", few), ("small_far", np.concatenate([few, case.arrays["small_far_gt"]]))):
        for name, thresholds in (("retina", RETINANET), ("rpn", RPN_THRESHOLDS), ("roi", ROI_HEAD)):
            found = assign(iou(boxes, objects), thresholds)
            yield exact(f"{prefix}_assigned_{name}", found, case.arrays[f"{prefix}_assigned_{name}"])
        ones = ms.Tensor(np.ones((1, len(boxes)), np.float32)), ms.Tensor(np.ones((1, len(objects)), np.float32))
        found = assign_in_graph(iou_in_graph(ms.Tensor(boxes[None]), ms.Tensor(objects[None])), *ones)
        yield exact(f"{prefix}_assigned_roi in the graph", found.asnumpy()[0], case.arrays[f"{prefix}_assigned_roi"])


@kind("mask_rcnn_loss")
def loss(case: Case) -> Iterator[Difference]:
    network = build(case)
    samples = enough_samples(case)
    objective = MaskRCNNObjective(network, samples=samples)
    shape = tuple(case["image_shape"][2:])

    def forward(images, sizes, anchors, anchor_labels, anchor_deltas, regions, counts, boxes, labels, draws, crops,
                places):  # fmt: skip
        logits, deltas, maps = network(images)
        logits, deltas = ms.ops.concat(logits, 1), ms.ops.concat(deltas, 1)
        first = rpn_losses(logits, deltas, anchors, anchor_labels, anchor_deltas)
        second = objective.second_stage(maps, regions, counts, sizes, boxes, labels, crops, places, draws, shape)
        parts = first + second
        return parts[0] + parts[1] + parts[2] + parts[3] + parts[4], parts

    optimizer = dense.adamw(network, case["lr"], spared=lambda name: "norm" in name)
    step = dense.UpdateStep(network, forward, optimizer)
    first = zip(*(rows for _, rows in first_stage(case, *rpn_anchors(case))))
    second = recorded(case)
    batch = [sizes(case), *map(np.stack, first), *second, *packed_masks(case, second[2].shape[1])]
    batch = [dense.images(case), *map(ms.Tensor, batch)]
    losses, at_first = [], None
    for update in range(len(case.arrays["losses"])):
        parts, norms = step(*batch)
        losses.append([float(part) for part in parts])
        if update == 0:
            at_first = norms.asnumpy()
            yield from dense.compare_statistics(case, network)
    reference = case.arrays["losses"][:, :5].astype(np.float64)
    relative = np.abs(np.array(losses) - reference) / np.maximum(np.abs(reference), 1e-6)
    yield Difference("losses before updates, relative", float(relative[0].max()), 1e-4)
    yield Difference("losses after updates, relative", float(relative.max()), 1e-2)
    yield from dense.compare_gradients(case, step, batch, at_first)


def enough_samples(case: Case) -> int:
    """The fewest samples with which the recorded ones are chosen: 512 or, where all regions were taken, fewer."""
    most = max(max(4 * len(p), len(p) + len(n)) for p, n in zip(arrays(case, "roi_pos"), arrays(case, "roi_neg")))
    return next(count for count in (128, 256, 512) if count >= most)


@kind("mask_rcnn_detect")
def detections(case: Case) -> Iterator[Difference]:
    meta = case["metas"][0]
    scale = meta["scale_factor"][:2]
    found = detect_regions(
        case.arrays["cls_score"], case.arrays["bbox_pred"], case.arrays["proposals"][:, :4], meta["img_shape"][:2],
        scale,
    )  # fmt: skip
    reference = case.arrays["det"]
    yield exact("labels", found.labels, case.arrays["labels"])
    yield compare("boxes", found.boxes, reference[:, :4], 1e-3)
    yield compare("scores", found.scores, reference[:, 4], 1e-4)
    yield compare("mask_rois", mask_regions(found.boxes, scale), case.arrays["mask_rois"][:, 1:], 1e-3)
    logits = case.arrays["mask_logits"][np.arange(len(reference)), case.arrays["labels"]]
    masks = paste(logits, found.boxes, meta["ori_shape"][:2])
    yield Difference("pixels of masks", float((masks != case.unpacked("masks")).sum()), 4)

"""Reference cases of RetinaNet and of what all detectors share."""

from typing import Iterator

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_models.data.geometry import fitted_size, normalise, resize_image, resize_labels
from mindcv_models.detection import anchors as anchor_sets
from mindcv_models.detection.assign import RETINANET, assign, retinanet_targets
from mindcv_models.detection.boxes import iou
from mindcv_models.detection.losses import focal_loss, l1_loss, positives, retinanet_losses
from mindcv_models.detection.predict import Limits, detect
from mindcv_models.detection.transforms import Preparation, flip_boxes, padded_size
from tests.helpers import dense
from tests.helpers.dense import Case, Difference, compare, compare_array, exact, kind

STRIDES = (8, 16, 32, 64, 128)


def anchor_set(case: Case) -> anchor_sets.Anchors:
    """RetinaNet's or the RPN's, by the strides and the anchors of a cell."""
    known = (anchor_sets.RETINANET, anchor_sets.RPN)
    per_cell = len(case.arrays[f"base_{case['strides'][0]}"])
    return next(a for a in known if a.strides == tuple(case["strides"]) and a.per_cell == per_cell)


@kind("anchors")
def anchors(case: Case) -> Iterator[Difference]:
    known, sizes = anchor_set(case), tuple(map(tuple, case["feature_sizes"]))
    yield exact("anchors", known.all(sizes), case.arrays["anchors"])
    for stride in case["strides"]:
        yield exact(f"base_{stride}", known.base(stride), case.arrays[f"base_{stride}"])
    valid = [known.valid(sizes, meta["pad_shape"][:2]) for meta in case["metas"]]
    yield exact("valid", valid, case.arrays["valid"])


def batch_anchors(case: Case):
    """The anchors of a batch, ``(A, 4)``, and which of them are valid in each image, ``(B, A)``."""
    padded = [meta["pad_shape"][:2] for meta in case["metas"]]
    height, width = case["image_shape"][2:] if "image_shape" in case.entry else np.max(padded, 0)
    sizes = anchor_sets.RETINANET.sizes(height, width)
    valid = np.stack([anchor_sets.RETINANET.valid(sizes, pad) for pad in padded])
    return anchor_sets.RETINANET.all(sizes), valid


def targets_of(case: Case, empty=()):
    """Labels ``(B, A)`` and deltas ``(B, A, 4)``; the images in ``empty`` are taken to have no ground truth."""
    anchors, valid = batch_anchors(case)
    rows = []
    for i in range(len(valid)):
        boxes, classes = case.arrays[f"gt_bboxes_{i}"], case.arrays[f"gt_labels_{i}"]
        some = slice(0, 0) if i in empty else slice(None)
        rows.append(retinanet_targets(anchors, valid[i], boxes[some], classes[some], case["num_classes"]))
    return tuple(np.stack(column) for column in zip(*rows))


@kind("retinanet_targets")
def targets(case: Case) -> Iterator[Difference]:
    anchors, valid = batch_anchors(case)
    anchors = stored_anchors(case, anchors)
    classes, divisor = case["num_classes"], 0
    for i, inside in enumerate(valid):
        boxes = case.arrays[f"gt_bboxes_{i}"]
        overlaps = iou(anchors, boxes)
        if f"max_overlaps_{i}" in case.arrays and len(boxes):
            reference = case.arrays[f"max_overlaps_{i}"]
            yield compare(f"overlaps of image {i}", np.where(inside, overlaps.max(1), reference), reference, 1e-6)
        assigned = np.full(len(anchors), -1)
        assigned[inside] = assign(overlaps[inside], RETINANET)
        yield exact(f"assignment of image {i}", assigned, case.arrays["assigned"][i])
        labels, deltas = retinanet_targets(anchors, inside, boxes, case.arrays[f"gt_labels_{i}"], classes)
        yield exact(f"labels of image {i}", np.where(labels < 0, classes, labels), case.arrays["labels"][i])
        yield exact(f"weights of image {i}", (labels >= 0).astype(np.float32), case.arrays["label_weights"][i])
        yield compare(f"deltas of image {i}", deltas, case.arrays["bbox_targets"][i], 1e-5)
        divisor += max(1, int(((labels >= 0) & (labels < classes)).sum()))
    yield exact("divisor", divisor, case["num_total_pos"])
    if "no_gt" in case.entry:
        labels, _ = retinanet_targets(anchors, valid[0], np.zeros((0, 4), np.float32), np.zeros(0, int), classes)
        yield exact("anchors that count without boxes", (labels == classes).sum(), case["no_gt"]["num_total_neg"])


def stored_anchors(case: Case, anchors: np.ndarray) -> np.ndarray:
    """The anchors that the folder has for this shape, if it has them: a tiny box hangs on their last bit."""
    for other in case.other("anchors"):
        stored = other.arrays["anchors"]
        if stored.shape == anchors.shape and np.allclose(stored, anchors, atol=1e-3):
            return stored
    return anchors


class Outputs(nn.Cell):
    """The neck's maps, and the head's outputs of each as maps."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        maps = self.network.neck(self.network.backbone(x))
        outputs = ()
        for each in maps:
            outputs += (self.network.bbox_head.level(each),)
        return maps, outputs


def build(case: Case) -> nn.Cell:
    return dense.build(case, "retinanet", window_size=case.get("window", 2))


@kind("retinanet_forward")
def forward(case: Case) -> Iterator[Difference]:
    maps, outputs = Outputs(build(case))(dense.images(case))
    for stride, each, (classes, boxes) in zip(STRIDES, maps, outputs):
        yield from compare_array(case, f"fpn_{stride}", each.asnumpy(), 3e-4)
        yield from compare_array(case, f"cls_{stride}", classes.asnumpy(), 1e-4)
        yield from compare_array(case, f"reg_{stride}", boxes.asnumpy(), 1e-4)


@kind("retinanet_loss")
def loss(case: Case) -> Iterator[Difference]:
    network = build(case)

    def forward(images, labels, deltas):
        logits, boxes = network(images)
        cls, box = retinanet_losses(logits, boxes, labels, deltas)
        return cls + box, (cls, box, logits, boxes)

    optimizer = dense.adamw(network, case["lr"])
    step = dense.UpdateStep(network, forward, optimizer)
    batch = (dense.images(case), *map(ms.Tensor, targets_of(case)))
    losses, first = [], None
    for update in range(len(case.arrays["losses"])):
        (cls, box, logits, boxes), norms = step(*batch)
        losses.append((float(cls), float(box)))
        if update == 0:
            first = norms.asnumpy()
            yield from dense.compare_statistics(case, network)
            yield from losses_of_levels(case, logits, boxes)
            yield from losses_without_boxes(case, logits, boxes)
    reference = case.arrays["losses"].astype(np.float64)
    relative = np.abs(np.array(losses) - reference) / np.maximum(reference, 1e-6)
    yield Difference("losses before updates, relative", float(relative[0].max()), 1e-4)
    yield Difference("losses after updates, relative", float(relative.max()), 1e-2)
    yield from dense.compare_gradients(case, step, batch, first)


def losses_of_levels(case: Case, logits, boxes) -> Iterator[Difference]:
    labels, deltas = targets_of(case)
    counts = anchor_sets.RETINANET.counts(anchor_sets.RETINANET.sizes(*case["image_shape"][2:]))
    divisor = np.maximum(((labels >= 0) & (labels < case["num_classes"])).sum(1), 1).sum()
    for level, end in enumerate(np.cumsum(counts)):
        rows = slice(int(end) - counts[level], int(end))
        own = ms.Tensor(labels[:, rows])
        cls = float(focal_loss(logits[:, rows], own)) / divisor
        weights = positives(own, case["num_classes"])
        box = float(l1_loss(boxes[:, rows], ms.Tensor(deltas[:, rows]), weights)) / divisor
        for name, value in (("level_cls", cls), ("level_bbox", box)):
            reference = float(case.arrays[name][level])
            yield Difference(f"{name} {level}, relative", abs(value - reference) / max(abs(reference), 1e-6), 1e-4)


def losses_without_boxes(case: Case, logits, boxes) -> Iterator[Difference]:
    """The same outputs when the second image (of one, the first), and when no image, has ground truth."""
    count = len(case["metas"])
    for name, empty in (("empty1", [min(1, count - 1)]), ("empty2", range(count))):
        if name not in case.arrays:
            continue
        labels, deltas = targets_of(case, empty)
        values = [float(v) for v in retinanet_losses(logits, boxes, ms.Tensor(labels), ms.Tensor(deltas))]
        reference = case.arrays[name].astype(np.float64)
        relative = np.abs(values - reference) / np.maximum(np.abs(reference), 1e-6)
        yield Difference(f"{name}, relative", float(relative.max()), 1e-4)


def rows(maps, values):
    """``(B, a * values, H, W)`` to ``(B, H * W * a, values)``."""
    return maps.transpose(0, 2, 3, 1).reshape(len(maps), -1, values)


@kind("retinanet_detect")
def detections(case: Case) -> Iterator[Difference]:
    strides = tuple(case["strides"])
    logits = np.concatenate([rows(case.arrays[f"cls_{s}"], case["num_classes"]) for s in strides], 1)
    deltas = np.concatenate([rows(case.arrays[f"reg_{s}"], 4) for s in strides], 1)
    sizes = tuple(case.arrays[f"cls_{s}"].shape[2:] for s in strides)
    known = anchor_sets.RETINANET
    assert strides == known.strides
    for name in sorted(case.arrays):
        kept, _, image = name.removeprefix("det_").rpartition("_")
        if not name.startswith("det_"):
            continue
        limits = Limits(per_level=int(kept.removeprefix("pre"))) if kept else Limits()
        meta = case["metas"][int(image)]
        found = detect(
            logits[int(image)], deltas[int(image)], known.all(sizes), known.counts(sizes),
            meta["img_shape"][:2], meta["scale_factor"][:2], limits,
        )  # fmt: skip
        reference = case.arrays[name]
        yield exact(f"labels of {name}", found.labels, case.arrays[name.replace("det_", "labels_", 1)])
        yield compare(f"boxes of {name}", found.boxes, reference[:, :4], 1e-3)
        yield compare(f"scores of {name}", found.scores, reference[:, 4], 1e-4)


# Of images in RGB: the reference's are BGR, and swapped when they are normalised.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@kind("preprocessing")
def preprocessing(case: Case) -> Iterator[Difference]:
    """What detection does; sizes are width and height in the reference."""
    given = case.arrays
    sizes = [fitted_size(height, width, (1333, 800)) for width, height in given["sizes"].tolist()]
    yield exact("det_new", [size[::-1] for size in sizes], given["det_new"])
    yield exact("det_padded", [padded_size(*size)[::-1] for size in sizes], given["det_padded"])
    scales = [
        np.tile(np.array([new[1] / w, new[0] / h], np.float32), 2)
        for new, (w, h) in zip(sizes, given["sizes"].tolist())
    ]
    yield exact("det_scale_factor", scales, given["det_scale_factor"])
    image, scale = given["image"], tuple(given["resize_scale"].tolist())
    height, width = given["resized"].shape[:2]
    yield exact("size of the image", fitted_size(*image.shape[:2], scale), (height, width))
    # OpenCV's fixed-point arithmetic may round otherwise elsewhere, by one grey level.
    yield compare("resized", resize_image(image, height, width), given["resized"], 1)
    yield exact("resized_mask", resize_labels(given["mask"][0], height, width)[None], given["resized_mask"])
    rgb = np.ascontiguousarray(image[..., ::-1])
    prepared = Preparation(scale, MEAN, STD)(rgb, given["boxes"])
    yield compare("resized_boxes", prepared.boxes, given["resized_boxes"], 1e-4)
    yield exact("resized_scale_factor", np.tile(prepared.scale, 2), given["resized_scale_factor"])
    flipped = Preparation(scale, MEAN, STD)(rgb, given["boxes"], flip=True)
    yield compare("flipped_boxes", flipped.boxes, given["flipped_boxes"], 1e-4)
    yield compare("boxes flipped alone", flip_boxes(prepared.boxes, width), given["flipped_boxes"], 1e-4)
    yield exact("flipped_mask", resize_labels(given["mask"][0], height, width)[None, :, ::-1], given["flipped_mask"])
    one_level = 1.01 / min(STD)
    yield compare("flipped_normalized", flipped.pixels.transpose(1, 2, 0), given["flipped_normalized"], one_level)
    normalized = normalise(rgb, MEAN, STD).transpose(1, 2, 0)
    yield compare("normalized", normalized, given["normalized"], 1e-5)
    yield exact("padded_shape", padded_size(height, width), given["padded_shape"][:2])

"""Mask R-CNN: official names and numbers of parameters; regions, samples and targets of fixed shape."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

import mindcv_models
from mindcv_models import backend
from mindcv_models.cells import cast_network
from mindcv_models.checkpoint.names import torch_names
from mindcv_models.detection.assign import ROI_HEAD, assign
from mindcv_models.detection.boxes import iou
from mindcv_models.detection.mask_targets import MaskTargets
from mindcv_models.detection.masks import RunLengths, pack
from mindcv_models.detection.regions import Proposals, sample_regions
from mindcv_models.detection.regions import assign as assign_in_graph
from mindcv_models.detection.regions import iou as iou_in_graph
from mindcv_models.detection.two_stage import mask_loss, region_losses, rpn_losses, rpn_targets
from mindcv_models.errors import InputError
from mindcv_models.models.mask_rcnn import RoIHead
from tests.helpers import parity
from tests.helpers.networks import create


@pytest.mark.process
@pytest.mark.parametrize(
    ("variant", "count"), [("litv2_s", 47_350_056), ("litv2_m", 68_336_424), ("litv2_b", 105_894_024)]
)
def test_names_shapes_and_numbers_of_parameters_are_the_official_ones(variant, count):
    network = create("mask_rcnn", backbone=variant, num_classes=80)
    names = torch_names(network)
    found = {names[p.name]: p.shape for p in network.get_parameters()}
    official = parity.manifest("litv2")[f"mask_rcnn_{variant}"]
    official = {name: tuple(shape) for name, shape in official.items() if not name.endswith("num_batches_tracked")}
    assert found == official
    assert sum(p.size for p in network.trainable_params()) == count


def test_norms_alone_do_not_decay():
    network = mindcv_models.create_model("mask_rcnn", backbone="litv2_s", num_classes=2)
    spared = set(network.no_weight_decay())
    assert {"backbone.norm1.gamma", "backbone.patch_embed.norm.beta"} <= spared
    assert "roi_head.bbox_head.fc_cls.bias" not in spared
    assert all("norm" in name for name in spared)


def test_initial_values():
    network = mindcv_models.create_model("mask_rcnn", backbone="fastvit_t8", num_classes=40)
    head = network.roi_head
    for weight, deviation in (
        (network.rpn_head.rpn_conv.weight, 0.01),
        (head.bbox_head.fc_cls.weight, 0.01),
        (head.bbox_head.fc_reg.weight, 0.001),
        (head.bbox_head.shared_fcs[0].weight, np.sqrt(2 / (12544 + 1024))),
        (head.mask_head.convs[0].conv.weight, np.sqrt(2 / (9 * 256))),
        (head.mask_head.upsample.weight, np.sqrt(2 / (4 * 256))),
        (head.mask_head.conv_logits.weight, np.sqrt(2 / 40)),
    ):
        np.testing.assert_allclose(weight.asnumpy().std(), deviation, rtol=0.02)
    assert not head.bbox_head.fc_cls.bias.asnumpy().any()


def test_a_detector_without_classes_is_refused():
    with pytest.raises(InputError, match="num_classes is 0, but must be above 0"):
        mindcv_models.create_model("mask_rcnn", backbone="fastvit_t8", num_classes=0)


class _Assigned(nn.Cell):
    def construct(self, regions, counts, boxes, exists):
        return assign_in_graph(iou_in_graph(regions, boxes), counts, exists)


class _Sampled(nn.Cell):
    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def construct(self, regions, counts, boxes, labels, draws):
        return sample_regions(regions, counts, boxes, labels, draws, 7, self.samples)


class _Masks(nn.Cell):
    def __init__(self, shape):
        super().__init__()
        self.targets, self.shape = MaskTargets(28), shape

    def construct(self, regions, owners, crops, places, sizes):
        return self.targets(regions, owners, crops, places, sizes, self.shape)


def random_boxes(rng, count, side=80):
    corner = rng.uniform(0, 0.7 * side, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(4, 0.4 * side, (count, 2))], 1).astype(np.float32)


def test_assignment_in_the_graph_is_that_of_numpy():
    """Also for regions and objects that only fill up rows."""
    rng = np.random.default_rng(0)
    objects = random_boxes(rng, 6)
    regions = np.concatenate([random_boxes(rng, 60), np.repeat(objects, 4, 0) + rng.normal(0, 2, (24, 4))])
    regions = np.concatenate([regions, objects[:2], objects[:2]]).astype(np.float32)
    counts, exists = np.ones(88, np.float32), np.ones(6, np.float32)
    counts[50:60] = exists[4:] = 0
    found = _Assigned()(*(ms.Tensor(each[None]) for each in (regions, counts, objects, exists))).asnumpy()[0]
    there = counts > 0
    np.testing.assert_array_equal(found[there], assign(iou(regions[there], objects[:4]), ROI_HEAD))
    np.testing.assert_array_equal(found[~there], -1)
    assert (found > 0).sum() > 15


def sampled(scene, draws, samples=40):
    return [each.asnumpy() for each in _Sampled(samples)(*map(ms.Tensor, (*scene, draws)))]


@pytest.fixture(scope="module")
def scene():
    """Two images with regions near objects and elsewhere; the second has no object."""
    rng = np.random.default_rng(1)
    boxes = np.stack([random_boxes(rng, 3), np.zeros((3, 4), np.float32)])
    near = np.repeat(boxes[0], 10, 0) + rng.normal(0, 1, (30, 4))
    regions = np.stack([np.concatenate([random_boxes(rng, 50, 200), near]), random_boxes(rng, 80)]).astype(np.float32)
    counts = np.ones((2, 80), np.float32)
    counts[1, 20:] = 0
    labels = np.array([[5, 0, -1], [-1, -1, -1]], np.int32)
    return regions, counts, boxes, labels


def test_samples_are_those_with_the_largest_draws(scene):
    regions, _, boxes, labels = scene
    draws = np.random.default_rng(2).random((2, 83)).astype(np.float32)
    chosen, found, owners, objects = sampled(scene, draws)
    assigned = assign(iou(regions[0], boxes[0, :2]), ROI_HEAD)
    positive = np.concatenate([[0, 1], 3 + np.flatnonzero(assigned > 0)])
    positive = positive[np.argsort(-draws[0, positive])][:10]
    negative = 3 + np.flatnonzero(assigned == 0)
    negative = negative[np.argsort(-draws[0, negative])][:30]
    everything = np.concatenate([boxes[0], regions[0]])
    np.testing.assert_array_equal(chosen[0], everything[np.concatenate([positive, negative])])
    owner = np.concatenate([[1, 2, 0], assigned])[positive] - 1
    np.testing.assert_array_equal(owners[0, :10], owner)
    np.testing.assert_array_equal(found[0], [*labels[0, owner], *[7] * 30])
    np.testing.assert_array_equal(objects[0], [1] * 10 + [0] * 30)


def test_an_image_without_objects_has_background_alone(scene):
    draws = np.random.default_rng(3).random((2, 83)).astype(np.float32)
    chosen, labels, _, objects = sampled(scene, draws)
    np.testing.assert_array_equal(labels[1], [7] * 20 + [-1] * 20)
    assert not objects[1].any() and not chosen[1, 20:].any()
    assert {tuple(box) for box in chosen[1, :20]} == {tuple(box) for box in scene[0][1, :20]}


def test_the_same_draws_give_the_same_samples(scene):
    draws = np.random.default_rng(4).random((2, 83)).astype(np.float32)
    for first, second in zip(sampled(scene, draws, 512), sampled(scene, draws, 512)):
        np.testing.assert_array_equal(first, second)


class _Regions(nn.Cell):
    def __init__(self, per_level, most, shapes):
        super().__init__()
        self.proposals, self.shapes = Proposals(per_level, most), shapes

    def construct(self, logits, deltas, sizes):
        return self.proposals(logits, deltas, sizes, self.shapes)


def test_regions_are_of_fixed_number_and_within_the_image():
    rng = np.random.default_rng(5)
    shapes = ((16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
    counts = [3 * h * w for h, w in shapes]
    logits = tuple(ms.Tensor(rng.normal(0, 2, (2, count)).astype(np.float32)) for count in counts)
    deltas = tuple(ms.Tensor(rng.normal(0, 0.5, (2, count, 4)).astype(np.float32)) for count in counts)
    sizes = np.array([[64, 50], [40, 64]], np.float32)
    regions, scores, valid = (each.asnumpy() for each in _Regions(50, 300, shapes)(logits, deltas, ms.Tensor(sizes)))
    assert regions.shape == (2, 50 + 50 + 48 + 12 + 3, 4)
    assert (regions >= 0).all() and (regions[..., 2:].max(1) <= sizes[:, ::-1]).all()
    assert (np.diff(scores) <= 0).all() and (np.diff(valid) <= 0).all()
    assert 40 < valid[0].sum() < 163 and not regions[valid == 0].any()


def test_the_first_stage_learns_from_few_anchors_drawn_at_random():
    rng = np.random.default_rng(6)
    objects = random_boxes(rng, 3)
    anchors = np.concatenate([np.repeat(objects, 30, 0) + rng.normal(0, 1, (90, 4)), random_boxes(rng, 300)])
    anchors, valid = anchors.astype(np.float32), np.ones(390, bool)
    valid[:5] = False
    index, labels, deltas = rpn_targets(anchors, valid, objects, np.random.default_rng(0), 64)
    assert (labels[:32] == 1).all() and (labels[32:] == 0).all() and len(set(index)) == 64 and index.min() >= 5
    again = rpn_targets(anchors, valid, objects, np.random.default_rng(0), 64)
    other = rpn_targets(anchors, valid, objects, np.random.default_rng(1), 64)
    np.testing.assert_array_equal(index, again[0])
    assert (index != other[0]).any()
    assert deltas[:32].any(1).all() and not deltas[32:].any()
    index, labels, _ = rpn_targets(anchors[:20], valid[:20], np.zeros((0, 4), np.float32), rng, 64)
    assert (labels[:15] == 0).all() and (labels[15:] == -1).all()


@pytest.mark.parametrize("form", ["loops", "products"])
def test_mask_targets_are_the_pooled_bitmaps(form):
    """Regions within the mask, larger than it, and at the image's borders; the other form has the same pixels."""
    yy, xx = np.mgrid[:64, :96]
    bitmaps = [(yy - 30) ** 2 + (xx - 40) ** 2 < 400, (yy > 50) & (xx > 70), yy + xx < 30]
    masks = [RunLengths.of_bitmap(bitmap) for bitmap in bitmaps]
    packed = pack(masks, np.array([mask.box() for mask in masks], np.float32), (64, 96), False, 4, 4000)
    regions = np.array([[20, 10, 60, 50], [0, 0, 96, 64], [70.5, 50.2, 96, 64], [3, 2, 30, 31], [50, 40, 52, 41]], "f4")
    owners = np.array([0, 1, 1, 2, 0], np.int32)
    inputs = [regions, owners, packed.crops, packed.places, np.array([64, 96], np.float32)]
    with backend.portable_form() if form == "products" else backend.contextlib.nullcontext():
        network = _Masks((64, 96))
    targets = network(*(ms.Tensor(each[None]) for each in inputs)).asnumpy()[0]
    for region, owner, target in zip(regions, owners, targets):
        expected = pooled(bitmaps[owner], region)
        sure = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal(target[sure], (expected >= 0.5)[sure])
    assert targets[0].mean() > 0.7 and targets[1].mean() < 0.3


def pooled(bitmap, box, side=28):
    """The mean of each bin's bilinear samples, in float64."""
    weights = []
    for start, end, cells in ((box[1], box[3], bitmap.shape[0]), (box[0], box[2], bitmap.shape[1])):
        size = (float(end) - float(start)) / side
        count = int(np.ceil(size))
        places = float(start) - 0.5 + (np.arange(side)[:, None] + (np.arange(count) + 0.5) / count) * size
        places = np.clip(places, 0, cells - 1)[..., None]
        weights.append(np.maximum(1 - np.abs(places - np.arange(cells)), 0).mean(1))
    return weights[0] @ bitmap @ weights[1].T


def test_losses_of_a_batch_without_objects_are_zero_and_finite():
    rng = np.random.default_rng(7)
    logits, deltas = (ms.Tensor(rng.normal(0, 1, shape).astype(np.float32)) for shape in ((6, 4), (6, 12)))
    labels = ms.Tensor(np.array([3, 3, 3, -1, -1, -1], np.int32))
    nothing = ms.Tensor(np.zeros((1, 6), np.float32))
    cls, box = region_losses(logits, deltas, labels, ms.Tensor(np.zeros((6, 4), np.float32)), nothing)
    wide = logits.asnumpy()[:3].astype(np.float64)
    expected = np.log(np.exp(wide).sum(1)) - wide[:, 3]
    np.testing.assert_allclose(float(cls), expected.mean(), rtol=1e-6)
    assert float(box) == 0
    masks = ms.Tensor(rng.normal(0, 1, (6, 16)).astype(np.float32))
    assert float(mask_loss(masks, ms.Tensor(np.zeros((6, 16), np.float32)), nothing.reshape(6))) == 0


def test_the_first_stage_divides_by_what_counts():
    logits, deltas = ms.Tensor(np.zeros((2, 9), np.float32)), ms.Tensor(np.ones((2, 9, 4), np.float32))
    index = ms.Tensor(np.tile(np.arange(4, dtype=np.int32), (2, 1)))
    labels = ms.Tensor(np.array([[1, 0, 0, -1], [0, 0, -1, -1]], np.int32))
    cls, box = rpn_losses(logits, deltas, index, labels, ms.Tensor(np.zeros((2, 4, 4), np.float32)))
    divisor = 1 + 2 + 1 + 2  # the second image has no object, which counts as one
    np.testing.assert_allclose(float(cls), 5 * np.log(2) / divisor, rtol=1e-6)
    np.testing.assert_allclose(float(box), 4 / divisor, rtol=1e-6)


class Heads(nn.Cell):
    """All that the second stage says of regions."""

    def __init__(self):
        super().__init__()
        self.head = RoIHead(3, 4, 1)
        rng = np.random.default_rng(0)
        for parameter in self.get_parameters():
            parameter.set_data(ms.Tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))

    def construct(self, a, b, c, d, regions, labels):
        maps = (a, b, c, d)
        classes, deltas = self.head.boxes(maps, regions)
        return classes, deltas, self.head.masks(maps, regions), self.head.own_masks(maps, regions, labels)


@pytest.fixture(scope="module")
def said_of_regions():
    """What is said of regions far to the right, in float32 and in two levels of mixed precision."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(1)
    maps = [rng.standard_normal((1, 4, 32 // s, 1344 // s)).astype(np.float32) for s in (4, 8, 16, 32)]
    regions = np.float32([[[1300.3, 3.3, 1311.7, 17.2], [1100.2, 2.4, 1190.7, 31.6]]])
    arguments = [ms.Tensor(each) for each in (*maps, regions, np.int32([[2, 0]]))]
    said = {}
    for level in ("O0", "O1", "O2"):
        heads = Heads()
        cast_network(heads.head, level)
        said[level] = [out.asnumpy() for out in heads(*arguments)]
    return said


def test_masks_of_own_classes_are_those_among_all(said_of_regions):
    _, _, masks, own = said_of_regions["O0"]
    assert own.shape == (2, 28, 28) and np.abs(own).max() > 0.5
    np.testing.assert_allclose(own, masks[[0, 1], [2, 0]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_leaves_regions_in_float32(level, said_of_regions):
    """In float16 the first region would be half a pixel off, a twentieth of its width."""
    assert said_of_regions[level][0].dtype == (np.float32 if level == "O1" else np.float16)
    for exact, found in zip(said_of_regions["O0"], said_of_regions[level]):
        np.testing.assert_allclose(found, exact, rtol=0, atol=0.01 * exact.std())

"""Mask R-CNN's training samples, its results in COCO's format, and the pictures with masks."""

import threading

import numpy as np
import pytest
from PIL import Image

from mindcv_models import distributed
from mindcv_models.detection.anchors import RPN
from mindcv_models.detection.coco import read_coco
from mindcv_models.detection.draw import draw_detections
from mindcv_models.detection.evaluate import GroundTruth
from mindcv_models.detection.mask_data import MaskTrainTransform, Room, masks_of
from mindcv_models.detection.mask_predict import Instances
from mindcv_models.detection.masks import run_lengths
from mindcv_models.detection.transforms import Buckets, Preparation
from mindcv_models.distributed import World, gather_bytes
from mindcv_models.errors import InputError
from tests.helpers import coco

SCALE = (64, 96)


def with_masks(content):
    """The annotations with masks: polygons, and run lengths of a whole box."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if entry["id"] == 2:
            bitmap = np.zeros(sizes[entry["image_id"]], bool)
            bitmap[int(y) : int(y + h), int(x) : int(x + w)] = True
            entry["segmentation"] = run_lengths(bitmap)
    return content


@pytest.fixture
def data(tmp_path):
    return read_coco(coco.write(tmp_path, what=with_masks(coco.content())), tmp_path / "train2017")


def transform(data, flip=0.0):
    buckets = Buckets(SCALE)
    prepare = Preparation(SCALE, (0.0,) * 3, (1.0,) * 3)
    return MaskTrainTransform(prepare, buckets, Room.of(data, SCALE), regions=100, flip=flip)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_sample_has_boxes_masks_and_draws_in_fixed_rows(data, flip):
    room = Room.of(data, SCALE)
    assert room.rows == 2
    sample = transform(data, flip)(data.read(0), np.random.default_rng(0))
    pixels, size, anchors, kinds, deltas, boxes, labels, crops, places, draws = sample
    assert pixels.shape == (3, 64, 96) and tuple(size) == (64, 96)  # 40 x 60, enlarged 1.6 times
    left, right = 5 * 1.6, 25 * 1.6
    expected = [left, 6 * 1.6, right, 36 * 1.6] if not flip else [96 - right, 6 * 1.6, 96 - left, 36 * 1.6]
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(labels, [1, 0])
    assert crops.shape == (room.capacity,) and draws.shape == (room.rows + 100,)
    assert draws.min() >= 0 and draws.max() < 1 and len(set(draws)) > 90
    objects = RPN.all(RPN.sizes(64, 96))[anchors[kinds == 1]]
    assert len(objects) and deltas[kinds == 1].any(1).all()
    offset, x, y, width, height = places[0]
    stride = -(-width // 8)
    bitmap = np.unpackbits(crops[offset : offset + stride * height].reshape(height, stride), axis=1)[:, :width]
    assert x <= boxes[0, 0] and y <= boxes[0, 1]
    np.testing.assert_allclose(bitmap.sum(), 20 * 30 * 1.6**2, rtol=0.06)
    columns = x + np.flatnonzero(bitmap.any(0))[[0, -1]]
    np.testing.assert_allclose(columns, boxes[0, [0, 2]] - [0, 1], atol=1.01)


def test_a_sample_depends_on_its_random_numbers_alone(data):
    first, again, other = (transform(data, 0.5)(data.read(0), np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert (first[-1] != other[-1]).any()


def test_images_without_objects_have_empty_rows(data):
    sample = transform(data)(data.read(2), np.random.default_rng(0))
    assert (sample[6] == -1).all() and not sample[8].any() and (sample[3] != 1).all() and (sample[3] == 0).any()


def test_every_image_fits_into_the_room(data):
    for k in range(len(data)):
        for seed in range(3):
            transform(data, 0.5)(data.read(k), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [(None, "has no segmentation"), ([[1, 2]], "at least 3 points"), ({"size": [1, 1], "counts": [1]}, "of size")],
)
def test_a_mask_that_makes_no_sense_is_refused_with_its_image(data, segmentation, message):
    image = data.images[0]
    image.segmentations[0] = segmentation
    with pytest.raises(InputError, match=rf"image 10, 0\.png: .*{message}"):
        masks_of(image)


def test_perfect_masks_have_an_average_precision_of_one(tmp_path):
    content = with_masks(coco.content())
    content["annotations"] = [entry for entry in content["annotations"] if entry["id"] in (1, 2, 3, 4, 9)]
    data = read_coco(coco.write(tmp_path, what=content), tmp_path / "train2017")
    truth = GroundTruth(data)
    results = []
    for image in data.images:
        for box, label, mask in zip(image.boxes, image.classes, masks_of(image)):
            x1, y1, x2, y2 = box.tolist()
            results.append(
                {"image_id": image.id, "category_id": data.categories[label].id, "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "score": 0.9, "segmentation": run_lengths(mask.bitmap())}
            )  # fmt: skip
    for kind in ("bbox", "segm"):
        assert truth.evaluate(results, kind).values["ap"] == pytest.approx(1)
    for result in results:  # half of each mask
        half = np.zeros(result["segmentation"]["size"], bool)
        x, y, w, h = map(int, result["bbox"])
        half[y : y + h, x : x + w // 2] = True
        result["segmentation"] = run_lengths(half)
    assert truth.evaluate(results, "segm").values["ap"] < 0.2
    assert truth.evaluate(results).values["ap"] == pytest.approx(1)


def test_pictures_show_masks_through_which_the_image_is_seen():
    pixels = np.full((60, 60, 3), 100, np.uint8)
    logits = np.full((1, 28, 28), -9, np.float32)
    logits[0, 7:21, 7:21] = 9
    found = Instances(np.array([[10, 24, 38, 52]], np.float32), np.array([0.9], np.float32), np.array([0]), logits)
    picture = np.asarray(draw_detections(pixels, found, ["zero"]))
    plain = np.asarray(draw_detections(pixels, found._replace(masks=np.full_like(logits, -9)), ["zero"]))
    inside = np.zeros((60, 60), bool)
    inside[31:45, 17:31] = True
    changed = (picture != plain).any(2)
    assert changed[33:43, 19:29].all() and not changed[~inside].any()
    assert isinstance(draw_detections(pixels, found, ["zero"]), Image.Image)
    assert not pixels[pixels != 100].size


def test_ranks_gather_bytes_of_any_length(monkeypatch):
    """Two threads stand for ranks; their sums meet at a barrier."""
    parts, barrier = {}, threading.Barrier(2)

    def summed(values, world):
        parts[world.rank] = np.asarray(values, np.float64)
        barrier.wait()
        total = sum(parts.values())
        barrier.wait()
        return total

    monkeypatch.setattr(distributed, "sum_over_ranks", summed)
    own = [bytes(range(256)), b"\xff" * 13]
    gathered = {}

    def run(rank):
        gathered[rank] = gather_bytes(own[rank], World(rank, 2))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gathered[0] == gathered[1] == own
    assert gather_bytes(b"alone", World(0, 1)) == [b"alone"]

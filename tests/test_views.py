"""Random views of a detector's training images: boxes and masks follow the pixels, and the draws repeat."""

from dataclasses import replace

import numpy as np
import pytest

from mindcv_models.data.order import SAMPLE, generator
from mindcv_models.detection import views
from mindcv_models.detection.coco import Annotated, Raw
from mindcv_models.detection.mask_data import MaskTrainTransform, Room, masks_of
from mindcv_models.detection.masks import RunLengths
from mindcv_models.detection.options import TrainOptions
from mindcv_models.detection.transforms import Buckets, Preparation, TrainTransform
from mindcv_models.detection.views import GREY, Views
from mindcv_models.errors import InputError

SIZE = (60, 90)  # height and width
PLACES = ((10, 12, 8, 14), (40, 50, 12, 10), (30, 4, 9, 9))  # top, left, height and width of what is on the image


def scene() -> Raw:
    """Rectangles of brightness 200, 201 and 202 on black, with their boxes and masks."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    masks = np.zeros((len(PLACES), *SIZE), bool)
    for k, (top, left, height, width) in enumerate(PLACES):
        masks[k, top : top + height, left : left + width] = True
        pixels[masks[k]] = 200 + k
    boxes = np.array([[left, top, left + w, top + h] for top, left, h, w in PLACES], np.float32)
    counts = [RunLengths.of_bitmap(mask).counts.tolist() for mask in masks]
    segmentations = [{"size": list(SIZE), "counts": each} for each in counts]
    return Raw(Annotated(7, "scene", *SIZE, boxes, np.arange(3, dtype=np.int32), segmentations, 3), pixels)


def box_of(bitmap):
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("ratio", [(0.5, 0.9), (1.1, 2.5), (0.7, 1.4)])
def test_boxes_and_masks_follow_the_pixels(ratio):
    view = Views(ratio, masks=True)
    kept, sizes = 0, set()
    for seed in range(60):
        seen = view(scene(), generator(seed))
        image = seen.image
        assert seen.pixels.shape == (image.height, image.width, 3) and image.width > image.height
        assert abs(image.width / image.height - 1.5) < 0.05
        assert ratio[0] - 0.03 < SIZE[0] / image.height < ratio[1] + 0.1
        sizes.add(image.height)
        for box, label, mask in zip(image.boxes, image.classes, masks_of(image)):
            own = seen.pixels[..., 0] == 200 + label
            np.testing.assert_array_equal(box, box_of(own))
            np.testing.assert_array_equal(mask.bitmap(), own)
            kept += 1
        assert len(image.boxes) == len(image.classes) == len(image.segmentations) >= 1
    assert kept >= 60 and len(sizes) > 5


@pytest.mark.parametrize("degrees", [90, -90, 180, 17])
def test_boxes_and_masks_turn_with_the_pixels(degrees):
    raw = scene()
    seen = Views(masks=True).turned(raw, degrees)
    assert len(seen.image.boxes) == len(seen.image.segmentations) >= 2
    for box, label, mask in zip(seen.image.boxes, seen.image.classes, masks_of(seen.image)):
        own = abs(seen.pixels[..., 0].astype(int) - 200 - label) < 0.5
        np.testing.assert_array_equal(box, box_of(mask.bitmap()))
        assert (own & mask.bitmap()).sum() >= (0.7 if degrees == 17 else 1) * mask.area()
    # Boxes alone, where masks do not help; a turned mask is one of whole pixels.
    without = [raw.image.segmentations[0], None, {"size": [1, 1], "counts": [1]}]
    plain = Views().turned(Raw(replace(raw.image, segmentations=without), raw.pixels), degrees).image
    assert not plain.segmentations
    slack = 0.5 if degrees == 17 else 1e-3
    for box, of_mask in zip(plain.boxes, seen.image.boxes):
        assert (box[:2] <= of_mask[:2] + slack).all() and (box[2:] >= of_mask[2:] - slack).all()
        if degrees != 17:
            np.testing.assert_allclose(box, of_mask, atol=1e-3)


def test_an_object_whose_centre_leaves_the_image_is_left_out():
    seen = Views(rotation=90).turned(scene(), 90)  # 60 x 90 pixels: columns outside the middle 60 leave
    np.testing.assert_array_equal(seen.image.classes, [0, 1])


def test_an_object_counts_while_its_centre_is_seen():
    raw = scene()
    only = Views((1.0, 2.0)).framed(raw, 10, 19, 40, 60)  # the first one's centre is at x = 19, the third one's at 8.5
    np.testing.assert_array_equal(only.image.classes, [0, 1])
    np.testing.assert_array_equal(only.image.boxes[0], [0, 0, 7, 8])
    np.testing.assert_array_equal(Views((1.0, 2.0)).framed(raw, 10, 20, 40, 60).image.classes, [1])


def test_what_is_around_an_image_is_grey():
    seen = Views((0.5, 0.5)).framed(scene(), -10, -20, 120, 180)
    np.testing.assert_array_equal(seen.pixels[10:70, 20:110], scene().pixels)
    assert seen.pixels.astype(np.int64).sum() == scene().pixels.sum() + GREY * 3 * (120 * 180 - 60 * 90)
    np.testing.assert_array_equal(seen.image.boxes[0], [32, 20, 46, 28])


def test_views_repeat_and_differ_by_their_generator_alone():
    view = Views((0.7, 1.4), photometric=True, rotation=10)
    one, again, other = (view(scene(), generator(3, SAMPLE, 1, place)).pixels for place in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()
    assert scene().image.height == SIZE[0]  # what was read stays as it is


def test_without_views_no_random_number_is_drawn():
    rng, raw = generator(1), scene()
    assert Views()(raw, rng) is raw
    assert rng.random() == generator(1).random()


def test_a_view_without_an_object_is_drawn_again(monkeypatch):
    drawn = iter([0, 60, 35, 45])  # first the top right corner, where nothing is
    monkeypatch.setattr(views, "draw", lambda rng, spare: next(drawn))
    assert Views((4.0, 4.0)).window(scene().image, generator(0))[:2] == (35, 45)


def test_training_samples_have_their_shape_whatever_is_seen():
    buckets, prepare = Buckets((64, 96)), Preparation((64, 96), (0.0,) * 3, (1.0,) * 3)
    room = Room.of(Data((scene().image,)), (64, 96), 2.5)
    plain = Room.of(Data((scene().image,)), (64, 96))
    assert room.rows == plain.rows == 3 and room.capacity >= plain.capacity
    boxes = TrainTransform(prepare, buckets, 3, 0.0, views=Views((0.5, 2.5), True))
    masks = MaskTrainTransform(prepare, buckets, room, regions=50, flip=0.0, views=Views((0.5, 2.5), True, True))
    for transform in (boxes, masks):
        shapes = {tuple(part.shape for part in transform(scene(), generator(seed))) for seed in range(40)}
        assert len(shapes) == 1


class Data:
    """What :meth:`Room.of` looks at."""

    def __init__(self, images):
        self.images = images


@pytest.mark.parametrize("wrong", [(1.2,), (1.4, 0.7), (0.5, 1.0, 2.0)])
def test_ranges_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=r"ratio_range is .*, but must be two numbers, the smaller one first"):
        TrainOptions(ratio_range=wrong).check()

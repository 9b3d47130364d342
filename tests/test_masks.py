"""Masks as polygons, run lengths and packed crops, against pycocotools and plain bitmaps."""

import numpy as np
import pytest
from pycocotools import mask as coco

from mindcv_models.detection.masks import RunLengths, bytes_needed, pack
from mindcv_models.errors import InputError

SIZE = (37, 53)
POLYGONS = {
    "triangle": [[5.2, 3.1, 40.7, 8.9, 12.3, 30.0]],
    "two parts": [[2, 2, 10, 2, 10, 10, 2, 10], [20.5, 20.5, 52.9, 22, 30, 36.9]],
    "beyond the image": [[-10, -5, 70, -5, 70, 50, -10, 50]],
    "overlapping": [[0, 0, 20, 0, 20, 20, 0, 20], [10, 10, 30, 10, 30, 30, 10, 30]],
    "thin": [[4, 4, 30, 4.2, 30, 4.4, 4, 4.2]],
}


def expected(polygons):
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *SIZE))).astype(bool)


def noise(seed=0, share=0.4):
    return np.random.default_rng(seed).random(SIZE) < share


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_are_rasterised_as_pycocotools_does(name):
    mask = RunLengths.of(POLYGONS[name], *SIZE)
    np.testing.assert_array_equal(mask.bitmap(), expected(POLYGONS[name]))
    assert mask.area() == expected(POLYGONS[name]).sum()


@pytest.mark.parametrize("bitmap", [noise(), noise(1, 0.01), np.zeros(SIZE, bool), np.ones(SIZE, bool)])
def test_run_lengths_are_read_compressed_or_not(bitmap):
    compressed = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    plain = RunLengths.of_bitmap(bitmap)
    for counts in (compressed["counts"], compressed["counts"].decode(), plain.counts.tolist()):
        mask = RunLengths.of({"size": list(SIZE), "counts": counts}, *SIZE)
        np.testing.assert_array_equal(mask.bitmap(), bitmap)
    left, top, width, height = coco.toBbox(compressed)
    assert plain.box() == (left, top, left + width, top + height)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "neither polygons nor run lengths"),
        ("abc", "neither polygons nor run lengths"),
        ([[1, 2, 3, 4]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least 3 points"),
        ({"counts": [5], "size": [1, 5]}, r"of size \[1, 5\], but the image is \[37, 53\]"),
        ({"counts": [5, 6], "size": list(SIZE)}, "cover 11 pixels"),
        ({"counts": [-1, 1962], "size": list(SIZE)}, "cover 1961 pixels"),
        ({"counts": "\x01", "size": list(SIZE)}, "no compressed run lengths"),
        ({"counts": "P", "size": list(SIZE)}, "end within a number"),
        ({"counts": None, "size": list(SIZE)}, "are no run lengths"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(InputError, match=message):
        RunLengths.of(segmentation, *SIZE)


def unpacked(packed, size):
    """Bitmaps ``(G, H, W)`` of packed masks."""
    bitmaps = np.zeros((len(packed.places), *size), bool)
    for bitmap, (offset, left, top, width, height) in zip(bitmaps, packed.places):
        stride = -(-width // 8)
        data = packed.crops[offset : offset + stride * height].reshape(height, stride)
        bitmap[top : top + height, left : left + width] = np.unpackbits(data, axis=1)[:, :width]
    return bitmaps


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [SIZE, (74, 106), (20, 31), (61, 40)])
def test_crops_are_the_resized_bitmaps(size, flip):
    masks = [RunLengths.of(polygons, *SIZE) for polygons in POLYGONS.values()]
    boxes = np.array([mask.box() for mask in masks], np.float32)
    need = bytes_needed(boxes, (size[1] / SIZE[1], size[0] / SIZE[0]))
    packed = pack(masks, boxes, size, flip, 8, need)
    rows, columns = np.arange(size[0]) * SIZE[0] // size[0], np.arange(size[1]) * SIZE[1] // size[1]
    for mask, bitmap in zip(masks, unpacked(packed, size)):
        wanted = mask.bitmap()[rows][:, columns]
        np.testing.assert_array_equal(bitmap, wanted[:, ::-1] if flip else wanted)
    assert not packed.places[len(masks) :].any()


def test_pixels_far_from_the_box_are_left_out_and_few_bytes_are_refused():
    bitmap = np.zeros(SIZE, bool)
    bitmap[5:10, 5:10] = bitmap[30, 40] = True
    masks, boxes = [RunLengths.of_bitmap(bitmap)], np.array([[5, 5, 10, 10]], np.float32)
    found = unpacked(pack(masks, boxes, SIZE, False, 1, 100), SIZE)[0]
    assert found.sum() == 25 and found[5:10, 5:10].all()
    with pytest.raises(ValueError, match="more than 5 bytes"):
        pack(masks, boxes, SIZE, False, 1, 5)

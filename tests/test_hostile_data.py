"""Annotations, masks, label maps and lists that nobody meant: each is one line, and costs neither memory nor time."""

import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mindcv_models.classification.imagenet import read_real_labels
from mindcv_models.classification.split import read_split
from mindcv_models.detection.coco import read_coco
from mindcv_models.detection.evaluate import GroundTruth, read_results
from mindcv_models.detection.masks import RunLengths
from mindcv_models.errors import InputError, one_line
from mindcv_models.segmentation.folders import find, read_numbers
from tests.helpers.images import options

HUGE = 10**400
DEEP = "[" * 100_000


def content(**changes):
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "0.png", "height": 20, "width": 30, **changes.get("image", {})}],
        "categories": [{"id": 1, "name": "cat", **changes.get("category", {})}],
        "annotations": [{**entry, **changes.get("annotation", {})}],
    }


def refused(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert len(one_line(error.value)) < 640 and one_line(error.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"file_name": "../0.png"}}, r"file_name '\.\./0\.png', which leads out of the folder of images"),
        ({"image": {"file_name": "a/../../0.png"}}, "leads out of the folder"),
        ({"image": {"file_name": "..\\0.png"}}, "leads out of the folder"),
        ({"image": {"file_name": "/etc/0.png"}}, "leads out of the folder"),
        ({"image": {"file_name": "0.png\0"}}, "must have the name of a file"),
        ({"image": {"file_name": "."}}, "must have the name of a file"),
        ({"image": {"id": HUGE}}, "ids must be whole numbers"),
        ({"image": {"height": HUGE}}, "more than 178,956,970 pixels"),
        ({"image": {"height": 2**31 - 1, "width": 2**31 - 1}}, "more than 178,956,970 pixels"),
        ({"image": {"height": 20.5}}, "both must be 1 or more pixels"),
        ({"category": {"name": "cat\ndog"}}, r"has name 'cat\\ndog', but must have a text on one line"),
        ({"category": {"name": "\x1b[31mcat"}}, "must have a text on one line"),
        ({"category": {"name": " "}}, "must have a text on one line"),
        ({"category": {"name": "\ud800"}}, "must have a text on one line"),
        ({"category": {"id": [1]}}, "ids must be whole numbers"),
        ({"annotation": {"bbox": [float("nan"), 1, 8, 8]}}, "must have x, y, width and height"),
        ({"annotation": {"bbox": [-1e308, 1, 1e308, 8]}}, "must have x, y, width and height"),
        ({"annotation": {"bbox": [HUGE, 1, 8, 8]}}, "must have x, y, width and height"),
        ({"annotation": {"bbox": [float("inf"), 1, 8, 8]}}, "must have x, y, width and height"),
        ({"annotation": {"bbox": [[[[]]]] * 1000}}, "must have x, y, width and height"),
        ({"annotation": {"area": HUGE}}, "must have a number"),
        ({"annotation": {"area": "64"}}, "must have a number"),
        ({"annotation": {"image_id": [1]}}, "ids must be whole numbers"),
        ({"annotation": {"category_id": None}}, "ids must be whole numbers"),
    ],
)
def test_annotations_that_cannot_be_meant(tmp_path, changes, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content(**changes)))
    refused(lambda: read_coco(path, tmp_path), message)


def test_an_image_whose_name_is_too_long_is_missing(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content(image={"file_name": "x" * 5000 + "/0.png"})))
    refused(lambda: read_coco(tmp_path / "a.json", tmp_path).present(False), "1 of 1 images of .*a")


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


READERS = {
    "annotations": lambda path: read_coco(path, path.parent),
    "results": lambda path: read_results(path, None),
    "split": lambda path: read_split(options(path.parent, split_file=str(path)), "train"),
    "real labels": lambda path: read_real_labels(str(path)),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_folders_and_nested_text_are_no_json(pipe, reader):
    read = READERS[reader]
    refused(lambda: read(pipe), "is a pipe or device, not a")
    refused(lambda: read(pipe.parent), "is a folder, not a")
    path = pipe.parent / "deep.json"
    path.write_text(DEEP)
    refused(lambda: read(path), "is not JSON")
    path.write_bytes(b'{"a": "\xff"}')
    refused(lambda: read(path), "is not UTF-8 text")
    path.write_text("9" * 10_000)
    refused(lambda: read(path), "is not JSON")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": [1]}, r"result 0 is of image \[1\], which is not in the annotations"),
        ({"category_id": {}}, "which is not in the annotations"),
        ({"bbox": [1, 1, HUGE, 8]}, "must have a bbox of four numbers and a score"),
        ({"score": float("nan")}, "must have a bbox of four numbers and a score"),
        ({"score": "1"}, "must have a bbox of four numbers and a score"),
    ],
)
def test_results_that_cannot_be_meant(tmp_path, changes, message):
    (tmp_path / "a.json").write_text(json.dumps(content()))
    truth = GroundTruth(read_coco(tmp_path / "a.json", tmp_path))
    result = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "score": 0.5}
    (tmp_path / "r.json").write_text(json.dumps([{**result, **changes}]))
    refused(lambda: read_results(tmp_path / "r.json", truth), message)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 5, 1, 5]], "no list of x, y"),
        ([[1, 1, float("nan"), 1, 5, 5]], "no list of x, y"),
        ([[1, 1, 1e308, 1, 5, 5]], "no list of x, y"),
        ([[1, 1, HUGE, 1, 5, 5]], "no list of x, y"),
        ([[1, 1, 1e14, 1, 5, 5]], "reach far beyond the image"),
        ([[1e9, 1e9, 1e9 + 5, 1e9, 1e9, 1e9 + 5]], "reach far beyond the image"),
        ([[0, 0, 30, 20, 0, 20] * 2000], "reach far beyond the image"),
        ({"size": 5, "counts": [600]}, "are of size 5"),
        ({"size": [2**31, 2**31], "counts": [2**62]}, r"are of size \[2147483648, 2147483648\]"),
        ({"size": [[[[]]]] * 10**5, "counts": [600]}, "are of size"),
        ({"size": [20, 30], "counts": [600, HUGE]}, "are no run lengths"),
        ({"size": [20, 30], "counts": [2**63 - 1, 2**63 - 1, 602]}, "are no run lengths"),
        ({"size": [20, 30], "counts": [9e14] * 20_500}, "the run lengths cover"),
        ({"size": [20, 30], "counts": [float("nan")]}, "are no run lengths"),
        ({"size": [20, 30], "counts": "o" * 20}, "are no compressed run lengths"),
        ({"size": [20, 30], "counts": "oooooooooooo0" * 3}, "the run lengths cover"),
        ({"size": [20, 30], "counts": "\ud800"}, "the run lengths cover 15 pixels"),
        ({"size": [20, 30], "counts": {}}, "are no run lengths"),
        ({}, "are of size None"),
        ("x" * 10**6, "is neither polygons nor run lengths"),
        ([{"size": [20, 30]}], "no list of x, y"),
    ],
)
def test_masks_that_cannot_be_meant(segmentation, message):
    refused(lambda: RunLengths.of(segmentation, 20, 30), message)


def test_polygons_that_leave_the_image_a_little_are_drawn():
    mask = RunLengths.of([[-5, -5, 35, -5, 35, 25, -5, 25]], 20, 30)
    assert mask.area() == 600


def png(path, width, height, bits=8, colour=0, data=b"x"):
    """A PNG file whose header says anything."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: png(path, 50_000, 43_000), "50000 x 43000, more than 178,956,970 pixels|exceeds limit"),
        (lambda path: png(path, 14_000, 14_000), "14000 x 14000, more than 178,956,970 pixels|exceeds limit"),
        (lambda path: png(path, 10, 10), "cannot decode label map"),
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (lambda path: path.write_bytes(b""), "no image of a known kind"),
        (lambda path: path.symlink_to("absent"), "cannot read label map .*No such file"),
        (lambda path: Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, "JPEG"), "is a JPEG, whose compression"),
        (lambda path: Image.fromarray(np.zeros((4, 4, 2), np.uint8), "LA").save(path), "is a colour picture"),
    ],
)
def test_label_maps_that_cannot_be_meant(tmp_path, make, message):
    make(tmp_path / "a.png")
    refused(lambda: read_numbers(str(tmp_path / "a.png")), message)


def test_pictures_are_listed_as_class_folders_are(tmp_path):
    """Hidden folders are passed over, links to folders are followed, and a link to a folder around it ends."""
    outside = tmp_path / "elsewhere"
    for name in ("set/a.png", "set/.ipynb_checkpoints/a.png", "set/._b.png", "elsewhere/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "set" / "linked").symlink_to(outside)
    (tmp_path / "set" / "round").symlink_to(tmp_path / "set")
    assert sorted(find(tmp_path / "set", "train_images", "")) == ["a", "linked/c"]

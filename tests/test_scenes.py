"""The embedded detection and segmentation data set."""

import json

import numpy as np
import pytest
from PIL import Image

from mindcv_models.data import scenes
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.options import parse
from mindcv_models.tasks import task_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return scenes.write_scenes(tmp_path_factory.mktemp("data") / "scenes", (12, 6))


def read(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def mask_of(annotation):
    """A mask from run lengths, column by column."""
    height, width = annotation["segmentation"]["size"]
    counts = annotation["segmentation"]["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(width, height).T.astype(bool)


@pytest.mark.parametrize(("split", "other", "count"), [("train2017", "training", 12), ("val2017", "validation", 6)])
def test_pictures_boxes_masks_and_label_maps_agree(folder, split, other, count):
    annotations = read(folder, split)
    assert [c["name"] for c in annotations["categories"]] == list("0123456789")
    assert len(annotations["images"]) == count
    for image in annotations["images"]:
        picture = folder / split / image["file_name"]
        assert Image.open(picture).size == (image["width"], image["height"])
        assert (folder / "images" / other / image["file_name"]).read_bytes() == picture.read_bytes()
        values = np.asarray(Image.open(folder / "annotations" / other / f"{picture.stem}.png"))
        assert values.shape == (image["height"], image["width"])
        expected = np.full_like(values, 11)
        of_image = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
        assert 1 <= len(of_image) <= 6
        for annotation in of_image:
            mask = mask_of(annotation)
            assert mask.sum() == annotation["area"] > 0
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y, w, h = annotation["bbox"]
            assert (x, y, w, h) == (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
            assert max(w, h) <= 56
            expected[mask] = annotation["category_id"]
        np.testing.assert_array_equal(values, expected)


def test_single_digits_are_the_middles_of_squares_around_their_boxes(tmp_path):
    folder = scenes.write_scenes(tmp_path / "scenes", (4, 2))
    target = scenes.write_single_digits(folder)
    assert target == folder / "digits" == scenes.write_single_digits(target)
    for split, part in (("train2017", "train"), ("val2017", "val")):
        annotations = read(folder, split)["annotations"]
        assert len(list((target / part).rglob("0*.png"))) == len(annotations)
        for annotation in annotations:
            digit = np.asarray(
                Image.open(target / part / str(annotation["category_id"] - 1) / f"{annotation['id']:06d}.png")
            )
            scene = np.asarray(Image.open(folder / split / f"{annotation['image_id']:012d}.jpg"))
            x, y, w, h = annotation["bbox"]
            side = round(1.4 * max(w, h))
            assert digit.shape == (side, side, 3)
            top, left = (side - h + 1) // 2, (side - w + 1) // 2
            np.testing.assert_array_equal(digit[top : top + h, left : left + w], scene[y : y + h, x : x + w])


def test_ink_is_painted_in_one_colour_that_stands_out():
    pixels = np.full((20, 30, 3), 100, np.float32)
    ink = np.zeros((8, 4), np.float32)
    ink[2:6, 1:3] = 1
    scenes.paint(np.random.default_rng(0), pixels, ink, 10, 5)
    changed = (pixels != 100).any(2)
    assert np.argwhere(changed).tolist() == [[y, x] for y in range(12, 16) for x in (6, 7)]
    (painted,) = np.unique(pixels[changed], axis=0)
    assert abs(painted @ [0.299, 0.587, 0.114] - 100) >= 90


def test_every_training_digit_is_drawn_alone_twice(tmp_path):
    target = scenes.write_single_digits(scenes.write_scenes(tmp_path / "scenes", (1, 1)))
    assert not list((target / "val").rglob("alone*.png"))
    (_, labels), _ = scenes.load_digits()
    for index in (0, 1399):
        for copy in range(2):
            pixels = Image.open(target / "train" / str(labels[index]) / f"alone_{index:04d}_{copy}.png")
            assert pixels.size == (64, 64)
    assert len(list((target / "train").rglob("alone*.png"))) == 2800


def test_the_same_files_every_time_and_none_written_twice(folder, tmp_path):
    again = scenes.write_scenes(tmp_path / "again", (12, 6))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    before = (again / "annotations" / "instances_val2017.json").stat().st_mtime_ns
    assert scenes.write_scenes(again, (2, 2)) == again
    assert (again / "annotations" / "instances_val2017.json").stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".*partial*"))


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "own.txt").write_text("mine")
    for write in (scenes.write_scenes, scenes.write_single_digits):
        with pytest.raises(InputError, match="has other files: give digits_scenes a new folder"):
            write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.parametrize("data_dir", [None, "other"])
def test_every_task_finds_the_scenes_in_one_place(tmp_path, monkeypatch, data_dir):
    monkeypatch.chdir(tmp_path)
    folder = data_dir or "data/digits_scenes"
    scenes.write_scenes(folder, (24, 16))
    found = {}
    for model in ("fastvit_t8", "retinanet", "semantic_fpn"):
        task = task_of(model)
        given = ["--model", model, "--dataset", "digits_scenes", *(["--data_dir", data_dir] if data_dir else [])]
        found[model] = task.prepare(parse(task.train_options, "", given), ONE_DEVICE).data_dir
    assert found == {"fastvit_t8": f"{folder}/digits", "retinanet": folder, "semantic_fpn": folder}


def test_no_digit_is_in_both_parts():
    (train, _), (val, _) = scenes.load_digits()
    assert (len(train), len(val)) == (1400, 397)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in val}


def test_run_lengths():
    mask = np.array([[1, 0, 1], [1, 0, 1]], bool)
    assert scenes.run_lengths(mask) == [0, 2, 2, 2]
    assert scenes.run_lengths(~mask) == [2, 2, 2]
    assert scenes.run_lengths(np.zeros((2, 2), bool)) == [4]

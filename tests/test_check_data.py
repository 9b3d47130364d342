"""``train.py --check_data``: the table of what a run would be trained on, for each task."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mindcv_models.data import check as check_module
from mindcv_models.data import images
from mindcv_models.data.images import read_whole
from tests.helpers.images import image_folder
from tests.helpers.scripts import call

READ = Counter()  # how often a check has read each file


def table(text):
    """The cells of the Markdown table in ``text``, by their rows' titles."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {title: cells for title, *cells in rows}


def check(data, monkeypatch, capsys, caplog, *more):
    caplog.clear()
    caplog.set_level("INFO")
    READ.clear()
    for module in (check_module, images):
        monkeypatch.setattr(module, "read_whole", lambda path, *kind: READ.update([path]) or read_whole(path, *kind))
    arguments = ["--data_dir", str(data), "--check_data", "True", "--num_parallel_workers", "1", *more]
    status, _, errors = call("train", arguments, monkeypatch, capsys)
    assert errors == ""
    return status, table(caplog.text), caplog.text


def test_class_folders(tmp_path, monkeypatch, capsys, caplog):
    data = image_folder(tmp_path / "data")
    common = ("--model", "fastvit_t8", "--batch_size", "4", "--ckpt_save_dir", str(tmp_path / "out"))
    status, rows, text = check(data, monkeypatch, capsys, caplog, *common)
    assert status == 0 and "nothing in the data would stop a run" in text
    assert rows["images"] == ["13", "7"] and rows["class a"] == ["6", "3"] and rows["class b"] == ["7", "4"]
    assert rows["median width x height"] == ["40 x 40", "40 x 40"]
    assert len(READ) == 20 and set(READ.values()) == {1}  # each file is read once

    (data / "train" / "a" / "notes.txt").write_text("")
    (data / "train" / "a" / "._0.png").write_text("")
    (data / "train" / "b" / "deep").mkdir()
    Image.fromarray(np.zeros((8, 20), np.uint8)).save(data / "train" / "b" / "deep" / "grey.tif")
    Image.fromarray(np.zeros((80, 20, 3), np.uint8)).save(data / "train" / "b" / "x.webp")
    (data / "val" / "a" / "0.png").write_bytes(b"broken")
    status, rows, text = check(data, monkeypatch, capsys, caplog, *common)
    assert status == 1
    assert rows["images"] == ["15", "7"] and rows["class b"] == ["9", "4"]
    assert rows["left out: .txt files"] == rows["left out: hidden"] == ["1", "0"]
    assert rows["cannot be decoded"] == ["0", "1"]
    assert rows["smallest width x height"] == ["20 x 8", "40 x 40"]
    assert "use --skip_bad_images True:\n  " + str(data / "val/a/0.png") + ": no image of a known kind" in text
    assert check(data, monkeypatch, capsys, caplog, *common, "--skip_bad_images", "True")[0] == 0
    assert not (tmp_path / "out").exists()

    (data / "train" / "c").mkdir()
    status, rows, text = check(data, monkeypatch, capsys, caplog, *common, "--skip_bad_images", "True")
    assert status == 1 and rows["class c"] == ["0", "0"]
    assert f"would stop a run:\n  train: class folder {data / 'train' / 'c'} has no images" in text


def test_a_split_by_val_ratio_is_looked_at_and_not_written(tmp_path, monkeypatch, capsys, caplog):
    data = image_folder(tmp_path / "data") / "train"
    more = (
        "--model",
        "fastvit_t8",
        "--batch_size",
        "4",
        "--val_ratio",
        "0.5",
        "--ckpt_save_dir",
        str(tmp_path / "out"),
    )
    status, rows, _ = check(data, monkeypatch, capsys, caplog, *more)
    assert status == 0 and rows["class a"] == ["3", "3"] and rows["class b"] == ["3", "4"]
    assert not (tmp_path / "out").exists()
    (data / "c").mkdir()
    (data / "c" / "0.png").write_bytes((data / "a" / "0.png").read_bytes())
    status, _, text = check(data, monkeypatch, capsys, caplog, *more)
    assert status == 1
    alone = f"class folder {data / 'c'} has one image, which cannot be split: add another one."
    assert text[text.index("would stop a run") :].splitlines() == ["would stop a run:", f"  train: {alone}"]
    status, rows, text = check(tmp_path / "absent", monkeypatch, capsys, caplog, *more)
    assert status == 1 and "no folder" in text and rows["images"][0] == "0"


def test_images_of_both_splits_are_named(tmp_path, monkeypatch, capsys, caplog):
    data = image_folder(tmp_path / "data")
    for source, target in (("a/0.png", "a/copy.png"), ("a/0.png", "b/again.png"), ("b/1.png", "b/9.png")):
        (data / "val" / target).write_bytes((data / "train" / source).read_bytes())
    common = ("--model", "fastvit_t8", "--batch_size", "4")
    status, _, text = check(data, monkeypatch, capsys, caplog, *common)
    assert status == 0 and "nothing in the data would stop a run" in text
    twins = [(data / "val" / twin, data / "train" / of) for twin, of in
             (("a/copy.png", "a/0.png"), ("b/9.png", "b/1.png"), ("b/again.png", "a/0.png"))]  # fmt: skip
    assert (
        "3 of 10 images of val are images of train too, byte for byte: figures of val will be too good; leave them in "
        "one of the two:" + "".join(f"\n  {twin} is {of}" for twin, of in twins)
    ) in text
    split = ("--train_split", "val", "--val_while_train", "False", "--val_split", "absent")
    assert "byte for byte" not in check(data, monkeypatch, capsys, caplog, *common, *split)[2]


@pytest.fixture
def coco(tmp_path):
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for i in range(3):
            Image.fromarray(np.full((40 + i, 50, 3), 40 * i, np.uint8)).save(tmp_path / split / f"{i}.png")
    listed = [{"id": i, "file_name": f"{i}.png", "height": 40 + i, "width": 50} for i in range(3)]
    box = {"bbox": [1, 1, 10, 10], "area": 100, "iscrowd": 0, "segmentation": [[1, 1, 11, 1, 11, 11]]}
    annotations = [{"id": i, "image_id": i // 2, "category_id": 1 + i % 2, **box} for i in range(4)]
    annotations.append({"id": 9, "image_id": 0, "category_id": 1, **box, "iscrowd": 1})
    content = {"images": listed, "annotations": annotations,
               "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "d|g"}]}  # fmt: skip
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path, content


def test_coco_folders(coco, monkeypatch, capsys, caplog):
    data, content = coco
    common = ("--model", "mask_rcnn", "--backbone", "litv2_s")
    status, rows, text = check(data, monkeypatch, capsys, caplog, *common)
    assert status == 0, text
    assert rows["images"] == ["2", "3"] and rows["class cat"] == rows["class d\\|g"] == ["2", "2"]
    assert rows["left out: images without objects"][0] == "1"
    assert rows["left out: objects that are crowds, ignored, or without area"] == ["1", "1"]
    assert rows["largest width x height"] == ["50 x 41", "50 x 42"]
    assert len(READ) == 5 and set(READ.values()) == {1}

    assert "categories that are classes" not in text
    assert "3 of 3 images of val are images of train too" not in text  # one has no objects: it is not trained on
    assert "2 of 3 images of val are images of train too, byte for byte" in text

    content["categories"][1]["name"] = "cat "
    content["annotations"][0]["segmentation"] = [[1, 1, 2]]
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    (data / "val2017" / "1.png").unlink()
    (data / "val2017" / "2.png").write_bytes(b"broken")
    status, rows, text = check(data, monkeypatch, capsys, caplog, *common)
    assert status == 1 and rows["cannot be decoded"] == ["0", "1"]
    assert "train: categories that are classes of their own:\n  'cat' is the name of 2 categories" in text
    assert "train: image 0, 0.png: polygon [1, 1, 2] is no list of x, y" in text
    assert f"val: cannot read image {data / 'val2017' / '1.png'} (No such file or directory)" in text


def test_pictures_and_label_maps(tmp_path, monkeypatch, capsys, caplog):
    for kind, value in (("images", 0), ("annotations", 1)):
        for split in ("training", "validation"):
            (tmp_path / kind / split).mkdir(parents=True)
            for i in range(2):
                pixels = np.full((40, 48, 3) if kind == "images" else (40, 48), value, np.uint8)
                if kind == "annotations":
                    pixels[:20] = 2 * i
                Image.fromarray(pixels).save(tmp_path / kind / split / f"{i}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    common = ("--model", "semantic_fpn", "--backbone", "litv2_s", "--batch_size", "1")
    status, rows, text = check(tmp_path, monkeypatch, capsys, caplog, *common)
    assert status == 0, text
    assert rows["images"] == ["2", "2"]
    assert rows["class sky"][0] == "50.00 % of the pixels" and rows["class sea"][0] == "25.00 % of the pixels"
    assert rows["left out: pixels that count nowhere"] == ["25.00 %", "25.00 %"]
    status, rows, text = check(tmp_path, monkeypatch, capsys, caplog, *common, "--ignore_label", "2")
    assert status == 0 and "train has nothing of 1 of the 2 classes:\n  sea" in text
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(tmp_path / "annotations" / "validation" / "1.png")
    status, _, text = check(tmp_path, monkeypatch, capsys, caplog, *common)
    assert status == 1 and "val: label map" in text and "has the label 7 at 1920 pixels" in text

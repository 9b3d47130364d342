"""The names of classes: one reader for every task, whatever wrote the file."""

import os
from types import SimpleNamespace

import pytest

from mindcv_models.classification.names import find_class_names as classification_names
from mindcv_models.data import class_names
from mindcv_models.data.class_names import class_names_of, given_names, read_class_names, write_class_names
from mindcv_models.detection.coco import Category, CocoSet
from mindcv_models.detection.coco_classes import COCO_CLASSES
from mindcv_models.errors import InputError

NAMES = ["红色", "grün", "two words"]


@pytest.mark.parametrize(
    "data",
    [
        "红色\ngrün\ntwo words\n".encode(),
        "\ufeff红色\r\ngrün\r\n\r\ntwo words\r\n\r\n".encode(),  # as Windows writes it
        "红色\rgrün\rtwo words".encode(),
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t9\t红色 \n2\t0.1\t9\t9\tgrün\n3\t0.1\t9\t9\ttwo words\n".encode(),
    ],
)
def test_names_are_read_as_they_were_written(tmp_path, data):
    (tmp_path / "names.txt").write_bytes(data)
    assert read_class_names(tmp_path / "names.txt") == NAMES
    assert given_names(str(tmp_path / "names.txt"), None, 3) == NAMES


def test_a_folder_of_class_folders_has_their_names(tmp_path):
    for name in ("b", "a", ".hidden"):
        (tmp_path / "own" / name).mkdir(parents=True)
    (tmp_path / "own" / "c.txt").touch()
    assert read_class_names(tmp_path / "own") == ["a", "b"]


@pytest.mark.parametrize("option", ["class_names", "class_map"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no {} at .*names: check the path"),
        (os.mkfifo, "is a pipe or device, not a {}"),
        (lambda path: path.mkdir(), "{} .*names has no names: give it a folder for each class"),
        (lambda path: path.write_bytes(b"\n \n"), "{} .*names has no names: give each class one line"),
        (lambda path: path.write_bytes(b"caf\xe9\n"), "is not UTF-8 text: save the {} as UTF-8"),
        (lambda path: path.write_bytes(b"b\na\nb\n"), "{} .*names has 'b' twice: give each class one line"),
        (lambda path: path.write_bytes(b"a\n" * 40), "larger than 0 MB: that is no {}"),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path, monkeypatch, option, make, message):
    monkeypatch.setattr(class_names, "LARGEST", 64)
    make(tmp_path / "names")
    with pytest.raises(InputError, match=message.format(option)) as error:
        read_class_names(tmp_path / "names", option)
    assert "\n" not in str(error.value)


def test_where_names_come_from(tmp_path):
    """From the option, from the run, from the authors for their weights; else classes have numbers."""
    checkpoint = tmp_path / "net.ckpt"
    options = SimpleNamespace(class_names=None, ckpt_path=str(checkpoint), num_classes=2, wants_published=False)
    assert given_names(None, checkpoint, None) is None and given_names(None, None, 3) is None
    assert class_names_of(options, ["x", "y"]) == ["class 0", "class 1"]
    assert class_names_of(options, ["x", "y"], "{}") == ["0", "1"]
    assert classification_names(None, checkpoint, 1000)[0] == classification_names(None, None, None)[0] == "tench"
    options.num_classes = None
    with pytest.raises(InputError, match=r"no classes\.txt beside .*net\.ckpt: give the names as class_names, or how"):
        class_names_of(options, ["x", "y"])
    write_class_names(["cat", "dog"], tmp_path)
    assert class_names_of(options, ["x", "y"]) == classification_names(None, checkpoint, 2) == ["cat", "dog"]
    options.num_classes = 3
    for find in (lambda: class_names_of(options, []), lambda: classification_names(None, checkpoint, 3)):
        with pytest.raises(InputError, match=r"classes\.txt has 2 names, but num_classes is 3: give the right one"):
            find()


def test_published_weights_have_their_authors_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_names(["cat", "dog"], tmp_path)  # of the working folder, not of the weights
    options = SimpleNamespace(class_names=None, ckpt_path="", num_classes=None, wants_published=True)
    assert class_names_of(options, COCO_CLASSES) == list(COCO_CLASSES)
    options.num_classes = 2
    assert class_names_of(options, COCO_CLASSES, "{}") == ["0", "1"]
    options.class_names = "classes.txt"
    assert class_names_of(options, COCO_CLASSES) == ["cat", "dog"]


def test_categories_of_one_name_are_told_apart(tmp_path):
    """Annotation programs write a category for the project beside one for the class, both called alike."""
    categories = tuple(Category(k, name) for k, name in enumerate(["fish", "fish", "", "two\nlines", "cat"]))
    names = CocoSet(tmp_path, tmp_path, categories, ()).class_names()
    assert names == ["fish (0)", "fish (1)", "category (2)", "two lines", "cat"]
    write_class_names(names, tmp_path)
    assert read_class_names(tmp_path / "classes.txt") == names

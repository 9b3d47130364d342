"""Validation images whose labels are in a CSV file."""

import csv
import logging

import numpy as np
import pytest
from PIL import Image

from mindcv_models.classification.folders import prepare
from mindcv_models.classification.images import list_images
from mindcv_models.classification.label_file import classes_in, labelled_images, read_labels
from mindcv_models.classification.options import ValidateOptions
from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError

CLASSES = ("ant", "bee", "cat")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


@pytest.fixture
def flat(tmp_path):
    """Pictures without class folders, one of them deeper, one without a label; and the classes of a run."""
    for name in ("0.png", "1.png", "deep/2.png", "3.png"):
        picture(tmp_path / "val" / name)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def options(root, text, **changes):
    (root / "labels.csv").write_text(text, encoding="utf-8")
    given = {"data_dir": str(root), "labels": str(root / "labels.csv"), "class_map": str(root / "classes.txt")}
    return ValidateOptions(**{"ckpt_path": (root / "elsewhere" / "x.ckpt",), **given, **changes})


def found(root, text, **changes):
    prepared = prepare(options(root, text, **changes), ONE_DEVICE, training=False)
    images = list_images(prepared, "val")
    return {path.removeprefix(f"{root}/"): label for path, label in zip(images.items, images.labels.tolist())}, prepared


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\n0.png,cat\n1.png,ant\ndeep/2.png,cat\n",
        "\ufeff0.png;cat\r\n1.png;ant\r\n2.png;cat\r\n",  # by its name alone; as a spreadsheet of some countries has it
        '0,cat\n"1",ant\ndeep/2,cat\n',  # without suffixes
        "./0.png cat\n1.png ant\n\ndeep/2.png cat",
        "image_id\tclass\tsplit\n0.png\tcat\tx\n1.png\tant\tx\n2.png\tcat\ty\n",
        "0.png,2\n1.png,0\n2.png,2\n",  # numbers are labels where they are no names
    ],
)
def test_labels_are_those_of_the_file_by_the_runs_class_names(flat, text, caplog):
    caplog.set_level(logging.INFO)
    labels, prepared = found(flat, text)
    assert labels == {"val/0.png": 2, "val/1.png": 0, "val/deep/2.png": 2}
    assert prepared.num_classes == 3
    assert "no images of 1 of the 3 classes: 'bee'" in caplog.text
    assert list_images(prepared, "val").left_out == {"images without a label": 1}


def test_without_class_names_classes_are_those_of_the_file_or_its_numbers(flat):
    text = "0.png,n02\n1.png,n01\n"
    assert found(flat, text, class_map=None)[0] == {"val/0.png": 1, "val/1.png": 0}
    labels, prepared = found(flat, "0.png,7\n1.png,2\n", class_map=None, num_classes=10)
    assert labels == {"val/0.png": 7, "val/1.png": 2} and prepared.num_classes == 10
    assert classes_in(str(flat / "labels.csv"), None) == [str(i) for i in range(8)]


def test_imagenets_own_list_has_boxes_beside_the_class(tmp_path):
    path = tmp_path / "LOC_val_solution.csv"
    path.write_text("ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
                    "ILSVRC2012_val_00037956,n03481172 131 0 499 254 n03481172 1 2 3 4 \n")  # fmt: skip
    assert read_labels(str(path)) == {"ILSVRC2012_val_00048981": "n03995372", "ILSVRC2012_val_00037956": "n03481172"}


def test_images_may_lie_in_data_dir_itself(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert found(tmp_path, "a.png,bee\n")[0] == {"a.png": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png,dog\n", "has class 'dog', which is none of the 3 classes: "),
        ("0.png,bees\n", r"did you mean bee\?"),
        ("0.png,3\n", "has class '3', which is none of the 3 classes"),
        ("9.png,cat\n", r"has '9\.png', which below .*val is not there"),
        ("../val/0.png,cat\n", "is not there"),
        ("0.png,cat\n0.png,ant\n", r"two classes for '0\.png'"),
        ("0.png\n", r"line 1 is '0\.png': write an image, a comma and its class"),
        ("0.png,\n", "line 1 is"),
        ("", "has no labels"),
        ("filename,label\n", "has no labels"),
        ("0.png," + "9" * 5000, "which is none of the 3 classes"),
    ],
)
def test_labels_that_cannot_be_are_one_line(flat, text, message):
    with pytest.raises(InputError, match=message) as refused:
        found(flat, text)
    assert len(str(refused.value)) < 400


def test_a_name_of_two_images_is_no_name(tmp_path):
    for name in ("a/0.png", "b/0.png"):
        picture(tmp_path / name)
    (tmp_path / "l.csv").write_text("0.png,ant\n")
    with pytest.raises(InputError, match="is the name of several images there: write their paths"):
        labelled_images(str(tmp_path / "l.csv"), tmp_path, CLASSES)
    (tmp_path / "l.csv").write_text("b/0.png,ant\n")
    assert labelled_images(str(tmp_path / "l.csv"), tmp_path, CLASSES) == (["b/0.png"], [0], 1)


def test_a_file_of_labels_and_a_split_are_not_both_given(flat):
    with pytest.raises(InputError, match="but split_file says what the images are too"):
        options(flat, "0.png,cat", split_file="split.json").check()


def test_a_field_that_does_not_end_is_one_line(tmp_path):
    (tmp_path / "l.csv").write_text('a.png,"' + "x" * 2000)
    before = csv.field_size_limit(1000)  # other libraries change Python's own limit
    try:
        with pytest.raises(InputError, match=r"line 1 is 'a\.png,") as refused:
            read_labels(str(tmp_path / "l.csv"))
    finally:
        csv.field_size_limit(before)
    assert len(str(refused.value)) < 300

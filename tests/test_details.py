"""Numbers behind an accuracy against scikit-learn and by hand; the pictures; ImageNet's test sets."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from mindcv_models.classification.details import ClassificationReport, calibrate
from mindcv_models.classification.imagenet import (
    ALEXNET_ERRORS,
    class_names,
    corruption_errors,
    read_real_labels,
    real_accuracy,
    resolve_targets,
)
from mindcv_models.classification.plots import plot_report
from mindcv_models.classification.predict import Predictions
from mindcv_models.errors import InputError


def predictions(images=200, classes=7, missing=()):
    rng = np.random.RandomState(0)
    labels = rng.choice(np.setdiff1d(np.arange(classes), missing), images)
    logits = rng.randn(images, classes) + 2 * np.eye(classes)[labels]
    return Predictions(logits.astype(np.float32), labels, [f"{i}.jpg" for i in range(images)])


def test_the_numbers_are_scikit_learns():
    data = predictions()
    report = ClassificationReport(data, list("abcdefg")).as_json()
    probabilities = softmax(data.logits, axis=1)
    one_hot = np.eye(7)[data.labels]
    assert report["top1"] == pytest.approx(accuracy_score(data.labels, data.logits.argmax(1)))
    for average in ("micro", "macro"):
        auc = roc_auc_score(one_hot, probabilities, average=average)
        precision = average_precision_score(one_hot, probabilities, average=average)
        assert report["roc"][average]["area"] == pytest.approx(auc)
        assert report["precision_recall"][average]["area"] == pytest.approx(precision)
    c = data.labels == 2
    assert report["per_class"][2] == {
        "class": "c", "images": c.sum(), "top1": pytest.approx((data.logits[c].argmax(1) == 2).mean()),
    }  # fmt: skip
    assert np.sum(report["confusion_matrix"]) == 200
    assert report["classification_report"]["accuracy"] == pytest.approx(report["top1"])
    wrong = np.array(report["confusion_matrix"]) * ~np.eye(7, dtype=bool)
    first = report["most_frequent_confusions"][0]
    assert first["images"] == wrong.max()
    assert first["images"] == wrong["abcdefg".index(first["class"]), "abcdefg".index(first["taken_for"])]


def test_a_class_without_images_leaves_no_number_and_spoils_no_average():
    data = predictions(missing=[3])
    report = ClassificationReport(data, list("abcdefg")).as_json()
    json.dumps(report, allow_nan=False)
    assert report["per_class"][3] == {"class": "d", "images": 0, "top1": None}
    present = [0, 1, 2, 4, 5, 6]
    probabilities = softmax(data.logits, axis=1)[:, present]
    expected = roc_auc_score(np.eye(7)[data.labels][:, present], probabilities, average="macro")
    assert report["roc"]["macro"]["area"] == pytest.approx(expected)


def test_calibration_by_hand():
    confidence = np.array([0.15, 0.2, 0.55, 0.95, 1.0])
    correct = np.array([False, True, True, True, True])
    result = calibrate(confidence, correct, bins=10)
    assert result.images.tolist() == [0, 2, 0, 0, 0, 1, 0, 0, 0, 2]
    assert result.accuracy[[1, 5, 9]].tolist() == [0.5, 1, 1]
    assert result.confidence[1] == pytest.approx(0.175)
    assert np.isnan(result.accuracy[0])
    assert result.ece == pytest.approx((abs(1 - 0.35) + 0.45 + abs(2 - 1.95)) / 5)


@pytest.mark.parametrize("classes", [7, 60])
def test_every_picture_is_drawn(tmp_path, classes):
    report = ClassificationReport(predictions(500, classes), [f"class {i}" for i in range(classes)])
    paths = plot_report(report, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    assert len(paths) == 5
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 5, path


def test_imagenets_class_lists():
    names = class_names()
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert (names[134], names[517]) == ("crane (n02012849)", "crane (n03126707)")


@pytest.mark.parametrize(
    ("benchmark", "first", "last", "total"),
    [("imagenet-a", [6, 11, 13, 15, 17, 22, 23], 988, 102178), ("imagenet-r", [1, 2, 4, 6, 8, 9, 11], 988, 86135)],
)
def test_subsets_of_200_classes_compete_among_themselves(benchmark, first, last, total):
    targets = resolve_targets(["n01498041"], benchmark)
    assert len(targets.outputs) == len(targets.names) == 200
    assert targets.outputs[:7].tolist() == first
    assert (targets.outputs[-1], targets.outputs.sum()) == (last, total)
    assert targets.outputs[targets.labels[0]] == 6  # stingray
    with pytest.raises(InputError, match=f"'n01440764' is not one of the 200 classes of {benchmark}"):
        resolve_targets(["n01440764"], benchmark)


def test_imagenet_v2_names_its_folders_by_label():
    targets = resolve_targets(["0", "1", "10", "100", "2"], "imagenet-v2")
    assert targets.labels.tolist() == [0, 1, 10, 100, 2]
    assert targets.outputs is None
    with pytest.raises(InputError, match="'1000' is not one of the 1000 classes"):
        resolve_targets(["1000"], "imagenet-v2")


def test_mean_corruption_error_is_relative_to_alexnet():
    errors = {(name, s): error for name, error in ALEXNET_ERRORS.items() for s in range(1, 6)}
    assert corruption_errors(errors)["mce"] == pytest.approx(1)
    assert corruption_errors(errors)["mean_error"] == pytest.approx(0.788993, abs=1e-6)
    errors = {("fog", 1): 0.2, ("fog", 2): 0.4, ("snow", 1): 0.5}
    assert corruption_errors(errors) == pytest.approx({"fog": 0.3, "snow": 0.5, "mean_error": 0.4})


def test_real_labels_count_images_that_have_any(tmp_path):
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[], [3, 5], [2], [1]]))
    labels = read_real_labels(str(path))
    data = Predictions(
        np.eye(6, dtype=np.float32)[[0, 5, 3]], np.zeros(3, int), [f"x/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
    )
    assert real_accuracy(data, labels) == (0.5, 2)
    with pytest.raises(InputError, match=r"x/cat\.jpg is not one of them"):
        real_accuracy(Predictions(data.logits[:1], data.labels[:1], ["x/cat.jpg"]), labels)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="is not a JSON list of label lists"):
        read_real_labels(str(path))
    with pytest.raises(InputError, match=r"no file of labels, such as real\.json at"):
        read_real_labels(str(tmp_path / "absent.json"))

"""validate.py's tables, reports and benchmarks, and what it says to wrong input."""

import json
import sys

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindcv_models import create_model
from mindcv_models.checkpoint import load_average
from mindcv_models.errors import InputError
from mindcv_models.evaluation import markdown_table
from tests.helpers.images import image_folder
from tests.helpers.scripts import call, checkpoint, common, rows


@pytest.fixture
def data(tmp_path):
    return image_folder(tmp_path / "images")


def test_several_checkpoints_give_one_table_and_a_report_each(data, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    paths = [checkpoint(tmp_path / "run 1" / f"{name}.ckpt", seed=i) for i, name in enumerate("ab")]
    report = tmp_path / "report"
    plain = [*common(data), "--ckpt_path", *paths]
    status, _, error = call("validate", [*plain, "--report_dir", str(report), "--tta", "flip"], monkeypatch, capsys)
    assert status == 0, error
    table = rows(report / "results.csv")
    assert list(table[0]) == ["checkpoint", "top1", "top2", "loss", "images"]
    assert [row["checkpoint"] for row in table] == ["a", "b"]
    assert table[0]["loss"] != table[1]["loss"]
    markdown = (report / "results.md").read_text()
    assert markdown.count("\n") == 4
    assert markdown in caplog.text
    for row in table:
        numbers = json.loads((report / row["checkpoint"] / "report.json").read_text())
        assert numbers["top1"] == pytest.approx(float(row["top1"]), abs=1e-6)
        assert [c["images"] for c in numbers["per_class"]] == [3, 4]
        each = rows(report / row["checkpoint"] / "predictions.csv")
        hits = [line["class"] == line["predicted"] for line in each]
        assert (len(hits), np.mean(hits)) == (7, pytest.approx(numbers["top1"]))
        assert len(list((report / row["checkpoint"]).glob("*.png"))) == 5
    # Flat grey images look the same mirrored, so without the report and the views the numbers are the same.
    caplog.clear()
    status, _, error = call("validate", plain, monkeypatch, capsys)
    assert status == 0, error
    assert markdown in caplog.text


def test_the_average_of_checkpoints_is_validated_and_saved(data, tmp_path, monkeypatch, capsys):
    paths = [checkpoint(tmp_path / f"{seed}.ckpt", seed=seed) for seed in (0, 1, 2)]
    more = ["--average", "True", "--average_path", str(tmp_path / "mean.ckpt"), "--report_dir", str(tmp_path)]
    status, _, error = call("validate", [*common(data), "--ckpt_path", *paths, *more], monkeypatch, capsys)
    assert status == 0, error
    assert [row["checkpoint"] for row in rows(tmp_path / "results.csv")] == ["average"]
    values = [ms.load_checkpoint(path) for path in paths]
    for name, mean in ms.load_checkpoint(str(tmp_path / "mean.ckpt")).items():
        expected = np.mean([value[name].asnumpy().astype(np.float64) for value in values], 0)
        np.testing.assert_allclose(mean.asnumpy(), expected, rtol=1e-6, atol=1e-9)


def test_an_average_needs_checkpoints_of_one_model(tmp_path):
    paths = [checkpoint(tmp_path / f"{classes}.ckpt", classes) for classes in (2, 3)]
    with pytest.raises(InputError, match=r"3\.ckpt does not fit the model"):
        load_average(create_model("tiny", num_classes=2), paths)


def benchmark_arguments(tmp_path, *more):
    path = checkpoint(tmp_path / "net.ckpt", classes=1000)
    return [*common(tmp_path), "--ckpt_path", path, "--report_dir", str(tmp_path / "out"), *more]


def test_a_subset_of_imagenet_guesses_among_its_own_classes(tmp_path, monkeypatch, capsys):
    from mindcv_models.classification.imagenet import resolve_targets

    image_folder(tmp_path, val=(("n01498041", 2), ("n12267677", 3)))
    more = ["--benchmark", "imagenet-a", "--skip_bad_images", "True"]
    (tmp_path / "val" / "n01498041" / "9.png").write_bytes(b"broken")
    status, _, error = call("validate", benchmark_arguments(tmp_path, *more), monkeypatch, capsys)
    assert status == 0, error
    assert rows(tmp_path / "out" / "results.csv")[0]["images"] == "5"
    each = rows(tmp_path / "out" / "net" / "predictions.csv")
    assert [line["class"] for line in each] == ["stingray"] * 2 + ["acorn"] * 3
    assert {line["predicted"] for line in each} <= set(resolve_targets([], "imagenet-a").names)


def test_imagenet_c_gives_an_error_for_each_corruption(tmp_path, monkeypatch, capsys):
    for corruption, severity in (("fog", "1"), ("fog", "2"), ("snow", "1")):
        folder = tmp_path / corruption / severity / "n01498041"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (10, 200, 30)).save(folder / "0.jpg")
    arguments = benchmark_arguments(tmp_path, "--benchmark", "imagenet-c")
    status, _, error = call("validate", arguments, monkeypatch, capsys)
    assert status == 0, error
    row = rows(tmp_path / "out" / "results.csv")[0]
    assert list(row) == ["checkpoint", "mean_error", "fog", "snow"]
    assert {row["fog"], row["snow"]} <= {"0", "1"}
    by_severity = rows(tmp_path / "out" / "net" / "corruptions.csv")
    assert [(r["corruption"], r["severity"]) for r in by_severity] == [("fog", "1"), ("fog", "2"), ("snow", "1")]
    assert {r["error"] for r in by_severity} <= {"0", "1"}
    assert Image.open(tmp_path / "out" / "net" / "corruptions.png").size[0] > 400


def test_reassessed_labels_are_counted_beside_the_folders(tmp_path, monkeypatch, capsys):
    image_folder(tmp_path, val=(("n01440764", 1), ("n01443537", 1)))
    for i, name in enumerate(("n01440764", "n01443537"), 1):
        (tmp_path / "val" / name / "0.png").rename(tmp_path / "val" / name / f"ILSVRC2012_val_{i:08d}.png")
    (tmp_path / "real.json").write_text(json.dumps([[], list(range(1000))]))
    more = ["--benchmark", "imagenet", "--real_labels", str(tmp_path / "real.json")]
    status, _, error = call("validate", benchmark_arguments(tmp_path, *more), monkeypatch, capsys)
    assert status == 0, error
    row = rows(tmp_path / "out" / "results.csv")[0]
    assert (row["images"], row["real_top1"], row["real_images"]) == ("2", "1", "1")


def test_a_table_shows_shares_in_per_cent():
    table = markdown_table([{"checkpoint": "a", "top1": 0.76543, "loss": 1.23456, "images": 7}])
    assert table == "| checkpoint | top1 | loss | images |\n|---|---|---|---|\n| a | 76.54 | 1.2346 | 7 |\n"


WRONG = {
    "no checkpoint": (["--ckpt_path"], "ckpt_path is missing"),
    "one to average": (["--average", "True"], "give it two or more"),
    "nothing averaged": (["--average_path", "x.ckpt"], "average_path is given, but average is False"),
    "averages": (
        ["--average", "True", "--ckpt_path", "net.ckpt", "net.ckpt", "--use_ema", "True"],
        "no moving averages",
    ),
    "views": (["--tta", "six_crop"], "did you mean five_crop?"),
    "benchmark": (["--benchmark", "imagenet-x"], "benchmark is 'imagenet-x', which is not known: did you mean"),
    "classes": (["--benchmark", "imagenet-a", "--num_classes", "200"], "imagenet-a needs 1000"),
    "folders": (["--benchmark", "imagenet-r"], "class folder 'a' is not one of the 200 classes of imagenet-r"),
    "corruptions": (["--benchmark", "imagenet-c", "--data_dir", "."], "no folders <corruption>/<1 to 5>/<class>"),
    "real labels": (["--real_labels", "absent.json"], "no file of labels, such as real.json at absent.json"),
    "real labels of others": (["--real_labels", "x", "--benchmark", "imagenet-a"], "real_labels are ImageNet's own"),
    "report": (
        ["--report_dir", "file/report"],
        "cannot write to file/report (Not a directory): choose another",
    ),
    "average's folder": (
        ["--average", "True", "--ckpt_path", "net", "net", "--average_path", "no/x.ckpt"],
        "no folder",
    ),
    "average is a folder": (
        ["--average", "True", "--ckpt_path", "net", "net", "--average_path", "."],
        "average_path is ., which is a folder",
    ),
    "cast": (["--amp_level", "O1", "--amp_cast_list", "[nn.Dense, print(1)]"], "must be cells, such as"),
    "cast to a mapping": (["--amp_level", "O1", "--amp_cast_list", "[nn.__dict__]"], "must be cells, such as"),
    "cast to no cell": (["--amp_level", "O1", "--amp_cast_list", "[nn.Dens]"], "must be cells, such as"),
    "not an image folder": (["--dataset", "cifar10", "--tta", "flip"], "need an image folder"),
    "corrupt image": (["--tta", "flip", "--data_dir", "broken"], "cannot decode image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(data, tmp_path, monkeypatch, capsys, case):
    more, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    classes = 1000 if "--benchmark" in more else 2
    path = checkpoint(tmp_path / "net.ckpt", classes)
    if "broken" in more:
        (image_folder(tmp_path / "broken") / "val" / "b" / "0.png").write_bytes(b"no image")
    status, _, error = call("validate", [*common(data), "--ckpt_path", path, *more], monkeypatch, capsys)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert (status, len(lines)) == (2, 1), error
    assert message in lines[0]


def test_a_report_without_matplotlib_is_refused_before_the_work(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    more = ["--ckpt_path", checkpoint(tmp_path / "net.ckpt"), "--report_dir", str(tmp_path / "report")]
    status, _, error = call("validate", [*common(data), *more], monkeypatch, capsys)
    assert status == 2
    assert error == "error: pictures need matplotlib: pip install matplotlib.\n"

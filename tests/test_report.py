"""The report of a run, and its numbers for TensorBoard."""

import sys
import warnings

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from mindcv_models.classification.options import TrainOptions
from mindcv_models.errors import InputError
from mindcv_models.options import save_options
from mindcv_models.training.progress import EpochProgress, RunPosition
from mindcv_models.training.report import read_results, write_report
from mindcv_models.training.results import Results
from mindcv_models.training.tensorboard import TensorBoard
from tools.report import read_run

pytestmark = pytest.mark.usefixtures("pictures")

RESULTS = """epoch,lr,train_loss,images_per_second,val_loss,top1,top5,ema_val_loss,ema_top1,ema_top5,seconds
1,0.001,2.25,100.5,,,,,,,10
2,0.002,1.5,110.25,1.75,0.5,0.875,2,0.25,0.75,12.5
3,0.0005,1.25,120,1.25,0.75,1,1.5,0.625,1,11
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS)
    options = TrainOptions(model="fastvit_t8", dataset="digits", num_classes=10, lr=0.002, epoch_size=3,
                           scale=(0.6, 1.0), color_jitter=None)  # fmt: skip
    save_options(options, tmp_path / "config.yaml")
    return tmp_path


def test_the_page_sums_the_run_up(run):
    page = write_report(run, read_run(run), parameters=3996040, devices=2)
    text = page.read_text()
    assert page == run / "report" / "summary.md"
    for line in (
        "# fastvit_t8 on digits",
        "| classes | 10 |",
        "| parameters | 3,996,040 |",
        "| epochs | 3 of 3 |",
        "| time | 0:00:34 |",
        "| throughput | 110.2 images/s, median over epochs |",
        "| best top1 | 75.00 % in epoch 3 |",
        "| best ema_top1 | 62.50 % in epoch 3 |",
        "| last losses | train_loss 1.2500, val_loss 1.2500, ema_val_loss 1.5000 |",
        "| device | 2 x CPU, graph mode, O0 |",
        "| `lr` | 0.002 | 0.001 |",
        "| `scale` | 0.6 1 | 0.08 1 |",
        "| `color_jitter` | None | 0.4 0.4 0.4 |",
    ):
        assert line in text.splitlines(), line
    assert "`weight_decay`" not in text
    pictures = ["accuracy.png", "learning_rate.png", "loss.png", "throughput.png"]
    assert sorted(p.name for p in page.parent.iterdir()) == sorted([*pictures, "summary.md"])
    for name in pictures:
        assert f"]({name})" in text
        assert np.asarray(Image.open(page.parent / name).convert("L")).std() > 5


def test_a_run_without_validation_has_no_picture_of_accuracy(run):
    columns = {"epoch", "lr", "train_loss", "images_per_second", "seconds"}
    (run / "results.csv").write_text("".join(line.replace("0.5,0.875", ",") for line in RESULTS.splitlines(True)[:2]))
    assert set(read_results(run / "results.csv")) == columns
    write_report(run, read_run(run))
    assert not (run / "report" / "accuracy.png").exists()
    assert (run / "report" / "loss.png").exists()


def test_an_epoch_of_one_step_has_no_speed_and_no_warning(run):
    """The first step compiles, and is left out of the speed: of one step nothing is left."""
    (run / "results.csv").write_text("epoch,lr,train_loss,images_per_second,seconds\n1,0.001,2.25,0,10\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(run, read_run(run))
    assert (run / "report" / "throughput.png").exists()


def test_the_log_of_an_epoch_of_one_step_has_no_speed(tmp_path, caplog):
    caplog.set_level("INFO")
    progress = EpochProgress(RunPosition(), 2, 1, images_per_step=4, log_interval=1, show=False, first=True)
    progress.step(Tensor(0.5, ms.float32), 0.1)
    assert caplog.messages[-1] == "epoch 1/2 step 1/1  loss 0.5000  lr 1.00e-01"
    Results(tmp_path / "results.csv", ["epoch", "images_per_second", "seconds"]).add(
        {"epoch": 1, "images_per_second": progress.images_per_second, "seconds": 2.0}
    )
    assert caplog.messages[-1] == "epoch 1 done  seconds 2"
    assert set(read_results(tmp_path / "results.csv")) == {"epoch", "seconds"}


def test_without_matplotlib_there_is_a_page_and_a_line(run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = write_report(run, read_run(run))
    assert [p.name for p in page.parent.iterdir()] == ["summary.md"]
    assert "the report has no pictures: pictures need matplotlib: pip install matplotlib." in caplog.text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*results\.csv .*: give the folder of a training run"):
        write_report(tmp_path, TrainOptions())
    (tmp_path / "results.csv").write_text("epoch,lr\n")
    with pytest.raises(InputError, match="has no epochs"):
        write_report(tmp_path, TrainOptions())


def test_tensorboard_gets_every_number_of_an_epoch_once(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with TensorBoard(tmp_path) as first:
        first({"epoch": 1, "lr": 0.5, "train_loss": 2.0, "images_per_second": float("nan")})
        first({"epoch": 2, "lr": 0.25, "train_loss": 1.0})
    with TensorBoard(tmp_path) as resumed:
        resumed({"epoch": 2, "lr": 0.125, "train_loss": 1.5, "top1": 0.75})
    found = {}
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == 1:  # START: what came from this step on is superseded
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found.update({(v.tag, event.step): v.simple_value for v in event.summary.value})
    epochs = {1: {"lr": 0.5, "train_loss": 2.0}, 2: {"lr": 0.125, "train_loss": 1.5, "top1": 0.75}}
    assert found == {(name, epoch): value for epoch, row in epochs.items() for name, value in row.items()}


def test_tensorboard_that_is_not_installed_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="tensorboardX is not installed: pip install tensorboardX, or set it to False"):
        TensorBoard(tmp_path)

"""Saved states that were changed: each is one line that names the file and the entry, and nothing is deleted."""

import copy
import re
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, load_checkpoint

from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.evaluation import Result
from mindcv_models.training.checkpoints import CheckpointManager
from mindcv_models.training.progress import RunPosition
from mindcv_models.training.state_check import check_metadata, check_values
from mindcv_models.training.state_files import SavedState, StateFiles

METADATA = {
    "options": {"lr": 0.1, "model": "m"},
    "place": asdict(RunPosition(2, 1, 1, 0.5, [0.25, 0.25])),
    "best": asdict(Result({"val_loss": float("nan"), "top1": 0.5}, 0.5, 8)),
    "schedule": {"factor": 1.0, "best": float("-inf"), "waited": 0},
    "keeper": {"best": float("-inf"), "tie": -0.5, "numbered": [[1, "m-1_6.ckpt"], [float("-inf"), "m-2_6.ckpt"]]},
    "results": [{"epoch": "1", "top1": "0.5", "val_loss": "nan", "ema_top1": ""}],
}
DEEP = "x"
for _ in range(200):
    DEEP = [DEEP]


def changed(entry, value):
    metadata = copy.deepcopy(METADATA)
    if not entry:
        return value
    *path, last = entry.split(".")
    place = metadata
    for key in path:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return metadata


def saved(metadata, arrays=None):
    return SavedState(Path("run/state/7-2-1-rank0.npz"), metadata, arrays or {})


def test_a_runs_own_facts_pass_and_those_of_earlier_versions_too():
    check_metadata(saved(METADATA), "m")
    check_metadata(saved(changed("best", None)), "m")
    check_metadata(saved(changed("best", {"top1": 0.5, "loss": 1.0})), "m")
    check_metadata(saved(changed("place", {"epoch": 1, "step": 0})), "m")


def test_a_state_of_another_model_is_said():
    with pytest.raises(InputError, match=r"npz is a state of a run of 'm', not of n: resume with its model"):
        check_metadata(saved(METADATA), "n")


NAMES = ["../m-1_6.ckpt", "/home/other/m-1_6.ckpt", "sub/m-1_6.ckpt", "n-1_6.ckpt", "m_best.ckpt", "m-1_6.ckpt\n",
         "mm-1_6.ckpt", "m-1_6.ckpt/..", "config.yaml", "..", "", "m-1_6.ckpt\0"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_numbered_checkpoint_of_the_run_is_refused(name):
    with pytest.raises(InputError, match=r"7-2-1-rank0\.npz: keeper\.numbered is .* but must be a score and the name"):
        check_metadata(saved(changed("keeper.numbered.1", [0.5, name])), "m")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("", None), ("", []), ("", {"options": {}}), ("options", None), ("options", [1]), ("place", 3), ("place", {}),
        ("place.epoch", 0), ("place.epoch", -1), ("place.epoch", 1.5), ("place.epoch", True), ("place.epoch", "1"),
        ("place.epoch", 10**400), ("place.step", None), ("place.loss_sum", float("nan")), ("place.loss_sum", 1e308),
        ("place.loss_sum", "0"), ("place.part_sums", {}), ("place.part_sums", ["a"]), ("place.unknown", 1),
        ("best", 1), ("best", {"values": {}}), ("best.values", []), ("best.values.top1", "0.5"), ("best.score", None),
        ("best.images", 2.5), ("best.text", 5), ("best.unknown", 1), ("schedule", []), ("schedule", {}),
        ("schedule.factor", 0), ("schedule.factor", float("inf")), ("schedule.factor", float("nan")),
        ("schedule.factor", "1"), ("schedule.best", float("nan")), ("schedule.waited", 0.5), ("keeper", None),
        ("keeper", {"best": 0.0}), ("keeper.best", "high"), ("keeper.numbered", {"a": 1}), ("keeper.numbered.0", 5),
        ("keeper.numbered.0", [1]), ("keeper.numbered.0", ["1", "m-1_6.ckpt"]), ("keeper.numbered.0", [1, None]),
        ("results", {}), ("results", ["row"]), ("results.0.top1", 0.5), ("results.0.top1", "=cmd()"),
        ("results.0.top1", "1" * 41), ("results", DEEP), ("keeper.numbered.0", DEEP), ("keeper.tie", float("nan")),
    ],
)  # fmt: skip
def test_facts_of_another_shape_are_one_line_with_file_and_entry(entry, value):
    with pytest.raises(InputError) as refused:
        check_metadata(saved(changed(entry, value)), "m")
    message = str(refused.value)
    where = entry.split(".")[0] or "its content"
    assert re.match(rf"run/state/7-2-1-rank0\.npz: {where}.* but must be .*: the state was changed", message)
    assert len(message) < 400 and "\n" not in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["a", "b"]), "w is <U1, but must be float32"),
        (np.array([1j, 2]), "w is complex128, but must be float32"),
        (np.array([1, 2], ">f4"), "w is >f4, but must be float32"),
        (np.array([1, 2], np.float64), "w is float64"),
        (np.array([(1,), (2,)], [("a", "f4")]), "w is"),
        (np.array([1, np.nan], np.float32), "w has a number that is not finite"),
        (np.array([1, -np.inf], np.float32), "w has a number that is not finite"),
        (np.array([1, 2, 3], np.float32), r"w is \(3,\) in the saved state, but \(2,\) here"),
        (None, "the saved state has no 'w': resume with the options"),
    ],
)
def test_arrays_that_are_no_values_of_the_parameters_are_refused(value, message):
    parameters = [Parameter(Tensor([0, 0], ms.float32), name="w")]
    check_values(saved(METADATA, {"w": np.array([1, 2], np.float32)}), parameters)
    with pytest.raises(InputError, match=message):
        check_values(saved(METADATA, {} if value is None else {"w": value}), parameters)


def test_a_run_prunes_none_but_its_own_checkpoints_and_replaces_links(tmp_path):
    """Numbered checkpoints that a state lists are deleted in time: a link in their place, not what it leads to."""
    (tmp_path / "run").mkdir()
    outside = tmp_path / "m-0_6.ckpt"
    outside.write_text("keep")
    for name in ("m-1_6.ckpt", "m_last.ckpt", "m_best.ckpt"):
        (tmp_path / "run" / name).symlink_to(outside)
    keeper = CheckpointManager(tmp_path / "run", "m", "latest_k", 1)
    keeper.load_state_dict({"best": 0.0, "numbered": [[1, "m-1_6.ckpt"]]})
    keeper.save([Parameter(Tensor([1.0], ms.float32), name="w")], 2, 6, (0.5, 0.0))
    assert outside.read_text() == "keep"
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"m-2_6.ckpt", "m_last.ckpt", "m_best.ckpt"}
    assert not any(p.is_symlink() for p in (tmp_path / "run").iterdir())


def test_of_equal_scores_the_smaller_loss_is_the_best_also_after_a_resume(tmp_path):
    def result(loss):
        return Result({"val_loss": loss, "top1": 1.0}, 1.0, 8)

    parameter = Parameter(Tensor([0.0], ms.float32), name="w")
    keeper, kept = CheckpointManager(tmp_path, "m", None, 1), []
    for epoch, loss in enumerate((0.5, 0.059, float("nan"), 0.2, 0.0018, 0.0018), 1):
        parameter.set_data(Tensor([float(epoch)], ms.float32))
        keeper.save([parameter], epoch, 1, result(loss).sort_key)
        kept.append(load_checkpoint(str(keeper.best))["w"].asnumpy().item())
        again = CheckpointManager(tmp_path, "m", None, 1)
        again.load_state_dict(keeper.state_dict())
        keeper = again
    assert kept == [1, 2, 2, 2, 5, 5]


@pytest.mark.parametrize("name", ["99999999999999999999-1-1-rank0.npz", "1-²-1-rank0.npz", "1--1-1-rank0.npz"])
def test_a_file_that_no_run_names_so_is_no_state(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    files = StateFiles(tmp_path, ONE_DEVICE)
    assert files.newest() is None and not files.exist()

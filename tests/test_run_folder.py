"""A folder belongs to one process at a time, and to one run at a time."""

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mindcv_models.distributed import ONE_DEVICE
from mindcv_models.errors import InputError
from mindcv_models.training.run_folder import locked, set_earlier_run_aside
from mindcv_models.training.state_files import StateFiles
from mindcv_models.training.stop import StopRequest, _Herald

OWN = ("m_best.ckpt", "m_last.ckpt", "m-3_25.ckpt", "results.csv", "config.yaml", "classes.txt")
OTHERS = ("split.json", "notes.txt", "pretrained.ckpt", "m-final.ckpt")


def fill(folder, text):
    for name in OWN:
        (folder / name).write_text(text)
    for name in ("state", "report", "tensorboard"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(text)


def texts(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_new_run_moves_an_earlier_one_and_leaves_other_files(tmp_path, caplog):
    for text in ("first", "second"):
        fill(tmp_path, text)
        for name in OTHERS:
            (tmp_path / name).write_text("other")
        set_earlier_run_aside(tmp_path)
        assert f"{tmp_path} has an earlier run, which is now in {tmp_path / 'earlier'}" in caplog.text
        assert {p.name for p in tmp_path.iterdir()} == {*OTHERS, "earlier"}
        caplog.clear()
    moved = sorted((tmp_path / "earlier").iterdir(), key=lambda path: (path / "results.csv").read_text())
    assert len(moved) == 2
    expected = {*OWN, "state/file", "report/file", "tensorboard/file"}
    assert [texts(folder) for folder in moved] == [dict.fromkeys(expected, text) for text in ("first", "second")]


@pytest.mark.parametrize("resume", ["auto", "{folder}", "{folder}/state/file"])
def test_a_run_that_is_continued_stays(tmp_path, resume, caplog):
    fill(tmp_path, "text")
    before = texts(tmp_path)
    set_earlier_run_aside(tmp_path, resume.format(folder=tmp_path))
    assert texts(tmp_path) == before and not caplog.text


def test_a_run_that_continues_another_folders_run_moves_this_folders(tmp_path):
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "a", "text")
    set_earlier_run_aside(tmp_path / "a", str(tmp_path / "ab"))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["earlier"]


def test_a_folder_that_no_run_trained_in_stays(tmp_path, caplog):
    set_earlier_run_aside(tmp_path)
    for name in ("config.yaml", "classes.txt"):
        (tmp_path / name).write_text("text")
    set_earlier_run_aside(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "classes.txt"} and not caplog.text


def test_a_folder_has_one_run_at_a_time_and_a_dead_process_leaves_none(tmp_path):
    hold = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, 2); print(1, flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "1\n"
        message = r"another run is writing to .*: wait for its end, or choose another ckpt_save_dir\."
        with pytest.raises(InputError, match=message), locked(tmp_path, ONE_DEVICE):
            raise AssertionError("the folder is another process's")
    finally:
        other.kill()
        other.communicate()
    with locked(tmp_path, ONE_DEVICE):
        pass
    with locked(tmp_path, ONE_DEVICE):
        pass


def test_a_file_in_the_place_of_the_states_is_refused_before_training(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(InputError, match="state is no folder, but a run's states go there"):
        StateFiles(tmp_path / "state", ONE_DEVICE)


def test_files_that_exist_are_told_from_none(tmp_path, caplog):
    files = StateFiles(tmp_path / "state", ONE_DEVICE)
    assert not files.exist() and files.newest() is None
    files.save(1, 1, {"x": 1}, {"a": np.ones(3, np.float32)})
    for path in (tmp_path / "state").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    caplog.set_level(logging.ERROR)
    assert files.exist() and files.newest() is None


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_the_first_signal_is_a_request_and_handlers_come_back(number):
    original = signal.signal(number, signal.default_int_handler)  # a shell may have it ignored
    try:
        with StopRequest(ONE_DEVICE) as request:
            assert request.check() is None
            os.kill(os.getpid(), number)
            assert request.check() == number
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, original)


def test_that_a_signal_was_heard_is_said_before_python_can_act_on_it(capfd):
    """A line of Python that blocks stands for the compiler; the shell that says it reads the signal from a pipe."""
    with StopRequest(ONE_DEVICE) as request:
        os.write(signal.set_wakeup_fd(-1), bytes([signal.SIGINT]))  # as the interpreter's own handler does, in C
        assert request.check() is None
        assert request.herald.shell.poll() is None  # it waits for more, so that a second signal finds its pipe open
    assert capfd.readouterr().err == f"{_Herald.HEARD}\n"
    with StopRequest(ONE_DEVICE):
        pass
    assert capfd.readouterr().err == ""


def test_a_run_under_nohup_does_not_hear_sighup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(ONE_DEVICE) as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.check() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_a_new_folder_is_empty_again_if_nothing_was_trained(tmp_path, error):
    def prepare(*more):
        with pytest.raises(error), locked(tmp_path, ONE_DEVICE):
            for name in ("config.yaml", "classes.txt", "split.json", *more):
                (tmp_path / name).write_text("text")
            raise error
        return sorted(p.name for p in tmp_path.iterdir())

    assert prepare() == []
    assert prepare("m-1_5.ckpt") == ["classes.txt", "config.yaml", "m-1_5.ckpt", "split.json"]
    (tmp_path / "m-1_5.ckpt").unlink()  # the folder had something in it
    assert prepare() == ["classes.txt", "config.yaml", "split.json"]

"""Files that are written whole or not at all, and readers that give a value or one line."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mindcv_models.errors import InputError, shown
from mindcv_models.files import (
    LEFT_OVER,
    atomic_folder,
    atomic_output,
    atomic_write,
    flush,
    partial_path,
    read_arrays,
    read_json,
    read_text,
    refuse_overwriting,
    remove_partials,
    require_file,
    write_text,
)
from tests.helpers.launch import ONE, run

ROOT = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_all_is_written_and_flushed(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino) or fsync(file))
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert partial.suffix == ".csv"
        assert path.read_text() == "old"
        inode = partial.stat().st_ino
    assert path.read_text() == "new"
    assert flushed[-1] == path.stat().st_ino == inode
    assert names(tmp_path) == ["a.csv"]


def test_an_error_leaves_the_old_file_and_is_the_one_that_is_raised(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.csv"])
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "b" / "c") as partial:
        raise ZeroDivisionError
    (tmp_path / "d").mkdir()
    with (
        pytest.raises(InputError, match=r"cannot write .*/d \(Is a directory\): choose another plot"),
        atomic_output(tmp_path / "d", "plot") as partial,
    ):
        partial.write_text("")
    assert names(tmp_path) == ["a.csv", "d"]


def test_a_folder_in_the_place_of_a_partial_file_is_removed_and_a_full_disk_names_the_path(tmp_path):
    partial_path(tmp_path / "a.csv", ".csv").mkdir()
    write_text(tmp_path / "a.csv", "new")
    assert (tmp_path / "a.csv").read_text() == "new" and names(tmp_path) == ["a.csv"]
    with pytest.raises(OSError, match=r"a\.csv") as full, atomic_write(tmp_path / "a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "a.csv"))
    other = pytest.raises(FileNotFoundError, match="source")
    with other, atomic_write(tmp_path / "a.csv"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "source")


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with monkeypatch.context() as context:
        context.setattr(os, "getpid", lambda: gone.pid)
        left = [partial_path(tmp_path / "digits"), partial_path(tmp_path / "a.csv", ".csv")]
    for path in left:
        path.mkdir()
    alive = tmp_path / partial_path(tmp_path / "a.csv", ".csv").name.replace(str(os.getpid()), str(os.getppid()))
    alive.write_text("half")
    remove_partials(tmp_path, "digits")
    assert set(names(tmp_path)) == {left[1].name, alive.name}
    remove_partials(tmp_path)
    assert names(tmp_path) == [alive.name]


@pytest.mark.parametrize("path", ["absent/x", "file/x", "x" * 300])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(InputError, match=r"cannot write .* \(.+\): choose another output\.")
    with refused, atomic_output(tmp_path / path) as partial:
        partial.write_text("")


def test_a_partial_file_of_a_process_before_is_not_written_through(tmp_path):
    """After a reboot processes have the same numbers; a checkpoint's partial file may be a link to another one."""
    (tmp_path / "good").write_text("good")
    os.link(tmp_path / "good", tmp_path / f".a.{os.getpid()}.partial")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "good").read_text() == "good"


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path):
    names_left = (".a.1-elsewhere.partial.csv", ".a.2.partial.csv", ".ab.1.partial.csv")
    old, young, other = (tmp_path / name for name in names_left)
    for path in (old, young, other):
        path.write_text("")
    for path in (old, other):
        os.utime(path, (time.time() - LEFT_OVER - 1,) * 2)
    write_text(tmp_path / "a.csv", "")
    assert names(tmp_path) == [young.name, "a.csv"]
    (tmp_path / ".data.7.partial" / "train").mkdir(parents=True)
    os.utime(tmp_path / ".data.7.partial", (time.time() - LEFT_OVER - 1,) * 2)
    with atomic_folder(tmp_path / "data") as partial:
        (partial / "x").write_text("x")
    assert names(tmp_path) == [young.name, "a.csv", "data"]
    assert names(tmp_path / "data") == ["x"]


def test_a_folder_is_searched_for_such_files_once(tmp_path, monkeypatch):
    searched, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: searched.append(folder) or scandir(folder))
    for name in ("a", "b", "a"):
        write_text(tmp_path / name, "")
    assert searched == [tmp_path]


def test_a_folder_is_flushed_file_by_file(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))
    (tmp_path / "a" / "b").mkdir(parents=True)
    paths = [tmp_path / "a" / "x", tmp_path / "a" / "b" / "y"]
    for path in paths:
        path.write_text("")
    flush(tmp_path / "a")
    assert sorted(flushed) == sorted(path.stat().st_ino for path in paths)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "data") as partial:
        (partial / "x").write_text("x")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in {
        "absent": "no split at", "pipe": "is a pipe or device, not a split", "link": "is a pipe or device",
        "": "is a folder, not a split", "loop": "Too many levels", "a\0b": "not a path", "x" * 300: "too long",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            require_file(f"{tmp_path}/{name}", "split")
    with pytest.raises(InputError, match="is a pipe or device"):
        require_file("/dev/zero", "split")


def test_texts_are_utf_8_whatever_the_locale(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff红色 Grün".encode())
    assert read_text(path, "list") == "红色 Grün"
    assert require_file(path, "list") == len(path.read_bytes())
    for content in (b"caf\xe9", "red".encode("utf-16"), "red".encode("utf-16-le")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text: save the list as UTF-8"):
            read_text(path, "list")
    with pytest.raises(InputError, match=r"larger than 1 MB: that is no list"):
        path.write_bytes(b" " * (1 << 20) + b" ")
        read_text(path, "list", 1 << 20)


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a":' * 50_000, "9" * 5000, "NaN]"])
def test_json_is_a_value_or_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json is not JSON \(.{1,110}\): write the state again") as error:
        read_json(path, "state")
    assert "\n" not in str(error.value)
    path.write_text('\ufeff{"a": [1]}', encoding="utf-8")
    assert read_json(path, "state") == {"a": [1]}


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"b": [{"id": 1, "x\\u0007": 2, "x\\u0007": 3}]}')
    with pytest.raises(InputError, match=r"a\.json has the key 'x\\x07' twice in one object: leave one of them out\.$"):
        read_json(path, "state")


def npz(path, write=np.savez, **arrays):
    write(path, **arrays)
    return path.read_bytes()


def test_arrays_come_back_as_numpy_wrote_them(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "a/b": np.arange(6).reshape(2, 3),
        "f": np.asfortranarray(np.ones((3, 2), np.float16)),
        "n": np.array(2.5),
    }
    npz(path, **arrays)
    found = read_arrays(path, "state")
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)
        found[name] += 1
    npz(path, np.savez_compressed, z=np.zeros(1_000_000))
    with pytest.raises(InputError, match="unpacks to more than a state can hold"):
        read_arrays(path, "state")
    assert read_arrays(path, "check", 1 << 24)["z"].sum() == 0


def test_archives_that_are_cut_false_or_encrypted_are_one_line(tmp_path):
    path = tmp_path / "a.npz"
    whole = npz(path, w=np.arange(40, dtype=np.float32), v=np.ones(3))
    bad = [whole[:n] for n in range(0, len(whole), 9)]
    bad += [whole.replace(b"(40,)", new) for new in (b"(99,)", b"(4e9,", b"(-1,)", b"[40,]", b"(((((")]
    bad += [whole.replace(b"'<f4'", new) for new in (b"'|O8'", b"'<V4'", b"'\\xff")]
    place = whole.index(b"PK\x01\x02") + 8  # flags in the directory; the lowest says that a member is encrypted
    bad += [whole[:place] + bytes([whole[place] | 1]) + whole[place + 1 :]]
    bad += [whole.replace(b"w.npy", b"v.npy"), whole.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"), b"", b"PK\x03\x04"]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_arrays(path, "state")
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300 + len(str(path))


def test_foreign_values_are_shown_in_few_characters():
    """And without looking at all of them: written out, the first one would take 2 to the power of 60 steps."""
    bomb = ()
    for _ in range(60):
        bomb = (bomb, bomb)
    values = [bomb, "x" * 10_000_000, 10**100_000, dict.fromkeys(range(10000), "y" * 1000), object(), [[[[[1]]]]]]
    assert all(len(shown(value)) < 500 for value in values)
    assert shown("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert shown({"a": 1}) == "{'a': 1}"


@pytest.mark.process
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline"])
def test_figures_need_no_window_whatever_a_notebook_left(tmp_path, backend):
    """In a process of its own, since matplotlib reads the variable when it is imported."""
    code = (
        "import sys; from pathlib import Path; from mindcv_models.evaluation.figures import new_figure, save_figure\n"
        "figure = new_figure(); figure.subplots().plot([1, 2]); save_figure(figure, Path(sys.argv[1]))\n"
        "import os; print(os.environ['MPLBACKEND'])"
    )
    done = run(*ONE, "-c", code, tmp_path / "a.png", MPLBACKEND=backend, GLOG_v="3")
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.split() == [backend]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_an_output_that_is_read_too_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "link").symlink_to("a")
    refuse_overwriting(tmp_path / "b", "output", tmp_path / "a", None, "")
    refuse_overwriting(tmp_path / "a", "output", tmp_path / "absent", "nul\0")
    for output in ("a", "link", "../" + tmp_path.name + "/a"):
        with pytest.raises(InputError, match=r"output is .*, which is read too and would be lost"):
            refuse_overwriting(tmp_path / output, "output", "absent", tmp_path / "a")

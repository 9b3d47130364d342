"""Published weights into the cache, from a server on this machine that misbehaves."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindcv_models.checkpoint.official import check_readable
from mindcv_models.errors import InputError, RunError
from mindcv_models.pretrained import LICENCES, Source, Weights, cache, download, fetch
from tests.helpers import hostile
from tests.helpers import server as answers
from tests.helpers.launch import PATIENCE
from tests.helpers.server import serving

ROOT = Path(__file__).parents[1]
FILE = np.random.default_rng(0).bytes(400_000)  # six blocks
PATH = "/release/v1/small.pth"
DIGEST = hashlib.sha256(FILE).hexdigest()
WEIGHTS = Weights(
    ("small",), "in1k", "top-1", "50.0", {}, LICENCES["apache"], (f"https://weights.invalid{PATH}",)
)  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "TIMEOUT", (60, 1))
    for name in (cache.CACHE_VARIABLE, cache.MIRROR_VARIABLE, "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with serving() as server:
        server.files[PATH] = FILE
        yield server


@pytest.fixture
def source(server, tmp_path):
    return Source(str(tmp_path), server.address)


def names(source):
    return sorted(path.name for path in (source.folder / WEIGHTS.name).iterdir())


def part_of(source, content, **version):
    """What an interrupted run left."""
    folder = source.folder / WEIGHTS.name
    folder.mkdir(parents=True)
    (folder / "small.pth.part").write_bytes(content)
    (folder / "small.pth.part.json").write_text(json.dumps(version))
    return folder


KEPT = ["small.pth", "small.pth.lock", "small.pth.sha256"]


def test_a_file_is_downloaded_once_and_its_checksum_noted(server, source, caplog):
    caplog.set_level("INFO")
    path = fetch(WEIGHTS, source)
    assert path == source.folder / "small.in1k" / "small.pth"
    assert path.read_bytes() == FILE
    assert names(source) == KEPT
    assert path.with_name("small.pth.sha256").read_text() == f"{DIGEST}  small.pth\n"
    assert "small.in1k is under Apache-2.0" in caplog.text
    assert f"downloading {server.address}{PATH} to {path}" in caplog.text
    assert fetch(WEIGHTS, source) == path
    assert [asked for asked, _ in server.asked] == [PATH]


def test_a_file_that_changed_in_the_cache_is_refused(server, source):
    path = fetch(WEIGHTS, source)
    path.write_bytes(FILE[:-1] + b"!")
    with pytest.raises(InputError, match=f"has changed since it was downloaded.*{DIGEST}.*delete small.pth.sha256"):
        fetch(WEIGHTS, source)
    path.unlink()
    assert fetch(WEIGHTS, source).read_bytes() == FILE


def test_another_file_than_at_the_first_download_is_refused(server, source):
    fetch(WEIGHTS, source).unlink()
    server.files[PATH] = FILE[::-1]
    with pytest.raises(RunError, match=rf"must be {DIGEST}, in small.pth.sha256, of the first download"):
        fetch(WEIGHTS, source)
    assert names(source) == ["small.pth.failed", *KEPT[1:]]


def test_a_file_put_into_the_cache_by_hand_needs_no_network(server, source):
    folder = source.folder / WEIGHTS.name
    folder.mkdir()
    (folder / "small.pth").write_bytes(FILE)
    assert fetch(WEIGHTS, replace(source, mirror="http://127.0.0.1:9")) == folder / "small.pth"
    assert (folder / "small.pth.sha256").read_text().startswith(DIGEST)
    assert server.asked == []


def test_a_download_that_is_cut_off_goes_on_where_it_was(server, source, caplog):
    caplog.set_level("INFO")
    server.script = [answers.cut(200_000), answers.cut(100_000)]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    first, second, third = server.ranges()
    assert first is None
    reached = [int(text[len("bytes=") : -1]) for text in (second, third)]
    assert 200_000 - download.BLOCK <= reached[0] <= 200_000 and reached[0] < reached[1] <= 300_000
    assert server.asked[1][1]["If-Range"] == server.asked[2][1]["If-Range"]
    assert f"trying again from byte {reached[0]}" in caplog.text
    assert names(source) == KEPT


def test_a_later_run_resumes_the_same_version_alone(server, source):
    address, etag = f"{server.address}{PATH}", f'"{DIGEST[:8]}"'
    folder = part_of(source, FILE[:150_000], address=address, validator=etag, size=len(FILE), sha256=None)
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert server.ranges() == ["bytes=150000-"]
    for content, version in (
        (b"another version", {"address": address, "validator": '"old"'}),
        (b"of another server", {"address": "http://other/small.pth", "validator": etag}),
        (b"of nobody knows what", {"address": address, "validator": None}),
        (FILE + b"too much", {"address": address, "validator": etag}),
    ):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        part_of(source, content, **version)
        assert fetch(WEIGHTS, source).read_bytes() == FILE


def test_what_is_whole_already_is_not_asked_for(server, source):
    part_of(source, FILE, address=f"{server.address}{PATH}", validator='"x"', size=len(FILE), sha256=None)
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert server.asked == []


def test_a_server_that_cannot_resume_starts_again(server, source):
    server.script = [answers.cut(200_000), answers.regardless]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert len(server.asked) == 2


def test_a_weak_etag_does_not_tell_versions_apart(server, source):
    server.etag = 'W/"1"'
    server.script = [answers.cut(200_000)]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert server.ranges() == [None, None]


def test_it_gives_up_when_nothing_more_comes(server, source):
    server.script = [answers.cut(0)] * 20
    with pytest.raises(RunError, match=r"connection .*run this again with network"):
        fetch(WEIGHTS, source)
    assert len(server.asked) == download.ATTEMPTS


def test_an_interrupted_run_leaves_what_it_has(server, source, monkeypatch):
    server.script = [answers.cut(200_000)]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(download.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(WEIGHTS, source)
    assert names(source) == ["small.pth.lock", "small.pth.part", "small.pth.part.json"]
    monkeypatch.undo()
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert server.ranges()[1].startswith("bytes=")


def test_a_stalled_server_times_out_and_a_slow_one_does_not(server, source):
    server.script = [answers.stalled]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert len(server.asked) == 2
    server.script = [answers.slow]
    (source.folder / "small.in1k" / "small.pth").unlink()
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again(server, source, code):
    server.script = [answers.status(code, Retry_After="0"), answers.status(code)]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert len(server.asked) == 3


def test_a_server_that_stays_busy_is_named(server, source):
    server.script = [answers.status(429)] * 20
    with pytest.raises(RunError, match=rf"{PATH} \(429 Too Many Requests\)"):
        fetch(WEIGHTS, source)
    assert len(server.asked) == download.ATTEMPTS


def test_a_page_instead_of_the_file_is_refused(server, source):
    server.script = [answers.page]
    with pytest.raises(RunError, match=r"an HTML page came instead of the file.*Google Drive's warning"):
        fetch(WEIGHTS, source)
    assert names(source) == ["small.pth.failed", "small.pth.lock"]
    server.files[PATH] = b"  <?xml version='1.0'?><Error>AccessDenied</Error>"
    with pytest.raises(RunError, match="an HTML page came"):
        fetch(WEIGHTS, source)


def test_the_next_address_is_asked_when_one_fails(server, source):
    weights = replace(WEIGHTS, addresses=("https://weights.invalid/absent.pth", *WEIGHTS.addresses))
    assert fetch(weights, source).name == "absent.pth"
    assert [asked for asked, _ in server.asked] == ["/absent.pth", PATH]


def test_an_absent_file_says_how_to_go_on(server, source):
    weights = replace(WEIGHTS, addresses=("https://weights.invalid/absent.pth",))
    with pytest.raises(RunError) as error:
        fetch(weights, source)
    path = source.folder / "small.in1k" / "absent.pth"
    for words in ("/absent.pth (404 Not Found)", f"curl -L -o absent.pth {server.address}/absent.pth", str(path),
                  "--pretrained_file", "--pretrained_mirror"):  # fmt: skip
        assert words in str(error.value)


def test_a_machine_without_network_says_what_to_do(server, source):
    with pytest.raises(RunError) as error:
        fetch(WEIGHTS, replace(source, mirror="http://127.0.0.1:9"))
    assert f"http://127.0.0.1:9{PATH} (" in str(error.value)
    assert "Connection refused" in str(error.value)
    assert f"copy the file to {source.folder}/small.in1k/small.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_refused_before_it_is_kept(server, source):
    with pytest.raises(RunError, match=r"what came is no checkpoint: .*it is no PyTorch checkpoint"):
        fetch(WEIGHTS, source, check_readable)
    assert names(source) == ["small.pth.failed", "small.pth.lock"]
    server.files[PATH] = hostile.GOOD[:-10]
    with pytest.raises(RunError, match="damaged or truncated"):
        fetch(WEIGHTS, source, check_readable)
    server.files[PATH] = hostile.GOOD
    assert fetch(WEIGHTS, source, check_readable).read_bytes() == hostile.GOOD
    assert names(source) == KEPT


def test_a_checksum_that_the_server_gives_is_compared(server, source):
    server.files["/blob"] = FILE
    server.script = [answers.redirect("/blob", X_Linked_ETag=f'"{"0" * 64}"')]
    with pytest.raises(RunError, match=f"its SHA-256 is {DIGEST}, but must be {'0' * 64}, the server's"):
        fetch(WEIGHTS, source)
    server.script = [answers.redirect("/blob", X_Linked_ETag=f'"{DIGEST}"')]
    assert fetch(WEIGHTS, source).read_bytes() == FILE


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    weights = replace(WEIGHTS, addresses=(f"http://weights.invalid{PATH}",))
    assert fetch(weights, Source(str(tmp_path))).read_bytes() == FILE
    assert server.asked[0][0] == f"http://weights.invalid{PATH}"


def test_a_full_disk_keeps_what_came_and_says_so(server, source, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(RunError, match=r"no space for .*small.pth \(400,000 bytes are needed\).*--pretrained_cache"):
        fetch(WEIGHTS, source)
    monkeypatch.undo()

    class Full:
        """A file on a disk that becomes full."""

        def __init__(self, *arguments):
            self.file = open(*arguments)  # noqa: SIM115, closed below

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            if self.file.tell() > 200_000:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(download, "open", Full, raising=False)
        with pytest.raises(RunError, match=r"No space left on device\): free some.*the next run goes on from there"):
            fetch(WEIGHTS, source)
    assert names(source) == ["small.pth.lock", "small.pth.part", "small.pth.part.json"]
    assert fetch(WEIGHTS, source).read_bytes() == FILE
    assert server.ranges()[-1] == "bytes=262144-"


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*choose another folder with --pretrained_cache"):
        fetch(WEIGHTS, Source(str(tmp_path / "file"), server.address))


def test_addresses_and_folder_follow_options_and_environment(monkeypatch, tmp_path):
    for name in (cache.CACHE_VARIABLE, cache.MIRROR_VARIABLE, "HF_ENDPOINT", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    both = replace(WEIGHTS, addresses=("https://huggingface.co/a/b.pth", "https://drive.google.com/uc?id=1"))
    assert Source().folder == Path.home() / ".cache" / "mindcv_models" / "weights"
    assert Source().addresses(both) == both.addresses
    monkeypatch.setenv("HF_ENDPOINT", "https://hf.example/")
    assert Source().addresses(both) == ("https://hf.example/a/b.pth", "https://drive.google.com/uc?id=1")
    monkeypatch.setenv(cache.MIRROR_VARIABLE, "http://mirror.example:8080/root/")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    mirrored = ("http://mirror.example:8080/root/a/b.pth", "http://mirror.example:8080/root/uc?id=1")
    assert Source().addresses(both) == mirrored
    assert Source().folder == tmp_path
    assert Source("~/x", "https://m").folder == Path.home() / "x"
    assert Source(mirror="https://m").addresses(both)[0] == "https://m/a/b.pth"
    with pytest.raises(InputError, match=r"the mirror 'hf-mirror.com' is no address"):
        Source(mirror="hf-mirror.com").addresses(both)


def test_a_licence_that_rules_commercial_use_out_is_named(server, source, caplog):
    fetch(replace(WEIGHTS, licence=LICENCES["nvidia"]), source)
    assert [r.levelname for r in caplog.records if "not for commercial use" in r.getMessage()] == ["WARNING"]


def test_threads_that_ask_at_once_download_once(server, source):
    server.script = [answers.slow]
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(WEIGHTS, source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [source.folder / "small.in1k" / "small.pth"] * 4
    assert len(server.asked) == 1


def test_those_that_wait_for_a_download_fail_with_it(server, source, caplog, monkeypatch):
    """Not one after another, each with all its attempts."""

    def gone(handler, content):
        deadline = time.time() + 60
        while caplog.text.count("waiting for another process") < 2 and time.time() < deadline:
            time.sleep(0.01)
        answers.status(410)(handler, content)

    caplog.set_level("INFO")
    monkeypatch.setattr(download, "TIMEOUT", (60, 60))
    server.script = [gone]
    errors = []

    def ask():
        with pytest.raises(RunError) as error:
            fetch(WEIGHTS, source)
        errors.append(str(error.value))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert len(errors) == 3 and len(set(errors)) == 1 and "410 Gone" in errors[0]
    assert fetch(WEIGHTS, source).read_bytes() == FILE


PROGRAM = """
import logging, sys
from mindcv_models.pretrained import LICENCES, Source, Weights, fetch
logging.basicConfig(level=logging.INFO, format="%(message)s")
weights = Weights(("small",), "in1k", "top-1", "50.0", {}, LICENCES["apache"], (sys.argv[1],))
print(fetch(weights, Source(sys.argv[2])))
"""


@pytest.mark.process
def test_processes_that_ask_at_once_download_once(server, tmp_path):
    server.script = [answers.slow]
    command = [sys.executable, "-c", PROGRAM, f"{server.address}{PATH}", str(tmp_path)]
    runs = [subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    results = [run.communicate(timeout=PATIENCE) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], results
    assert {out.splitlines()[-1] for out, _ in results} == {str(tmp_path / "small.in1k" / "small.pth")}
    assert len(server.asked) == 1
    assert (tmp_path / "small.in1k" / "small.pth").read_bytes() == FILE

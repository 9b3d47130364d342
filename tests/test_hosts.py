"""Ranks on several hosts: where they meet, how they train, and what becomes of them when a host is gone."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from mindcv_models import hosts
from mindcv_models.errors import RunError
from tests.helpers import runs
from tests.helpers.hosts import ADDRESSES, two_hosts
from tests.helpers.images import image_folder
from tests.helpers.launch import BIN, ENVIRONMENT, PATIENCE, ROOT
from tests.helpers.scripts import call, common, rows, train_arguments


class Ranks:
    """MPI's communicator, where the other rank reaches what ``reached`` says."""

    def __init__(self, reached):
        self.reached = reached

    def bcast(self, value, root):
        return value

    def allgather(self, own):
        return [own, self.reached]


@pytest.mark.parametrize(
    ("reached", "met"),
    [([True, True], "127.0.0.1"), ([False, True], "127.0.0.2"), ([False, False], None)],
)
def test_ranks_meet_at_the_first_address_that_all_of_them_reach(monkeypatch, reached, met):
    monkeypatch.setattr(hosts, "_own_addresses", lambda: ["127.0.0.1", "127.0.0.2"])
    if met is None:
        with pytest.raises(RunError, match=r"no network in common: .* rank 0 at one of 127\.0\.0\.1, 127\.0\.0\.2"):
            hosts.meeting_address(Ranks(reached))
    else:
        assert hosts.meeting_address(Ranks(reached)) == met


def test_an_address_at_which_somebody_else_answers_is_another_hosts():
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=hosts._answer, args=(door, b"w" * 16), daemon=True).start()
        port = door.getsockname()[1]
        assert hosts._answers("127.0.0.1", port, b"w" * 16)
        assert not hosts._answers("127.0.0.1", port, b"v" * 16)
        door.shutdown(socket.SHUT_RDWR)
    assert not hosts._answers("127.0.0.1", port, b"w" * 16)


def test_the_route_to_another_host_is_asked_of_the_system():
    assert hosts.address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(RunError, match=r"cannot reach 255\.255\.255\.255 from .*: check the address"):
        hosts.address_towards("255.255.255.255")


@pytest.fixture
def lines():
    """Ends of two connections of this rank, and the other ends: of rank 1 and of rank 2."""
    pairs = [socket.socketpair() for _ in range(2)]
    yield pairs
    for pair in pairs:
        for line in pair:
            line.close()


def watch(lines, monkeypatch):
    monkeypatch.setattr(hosts.os, "_exit", sys.exit)
    hosts._watch({own: rank for rank, (own, _) in enumerate(lines, 1)})


def test_ranks_that_end_as_they_should_are_not_missed(lines, monkeypatch):
    for _, other in lines:
        hosts._tell([other], hosts._GOODBYE)
        other.close()
    watch(lines, monkeypatch)


def test_a_rank_that_is_gone_ends_this_one_which_tells_the_others(lines, monkeypatch, capfd):
    lines[1][1].close()
    with pytest.raises(SystemExit) as end:
        watch(lines, monkeypatch)
    assert end.value.code == 1
    assert re.fullmatch("error: rank 2 is gone, .* continue with --resume auto.\n", capfd.readouterr().err)
    assert lines[0][1].recv(1) == hosts._LOST


def test_a_worker_waits_for_the_scheduler(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        hosts.wait_for("127.0.0.1", port, seconds=60)
        assert door.accept()[0].recv(1) == b""
    naps = []
    monkeypatch.setattr(hosts.time, "sleep", naps.append)
    hosts.wait_for("127.0.0.1", port, seconds=0.01)
    assert naps


def test_a_rank_that_leaves_says_goodbye(lines, monkeypatch):
    monkeypatch.setattr(hosts, "_lines", {own: rank for rank, (own, _) in enumerate(lines, 1)})
    monkeypatch.setattr(hosts.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        hosts.leave(3)
    assert end.value.code == 3
    assert [other.recv(2) for _, other in lines] == [hosts._GOODBYE] * 2


def test_a_rank_that_was_told_ends_in_silence(lines, monkeypatch, capfd):
    hosts._tell([lines[0][1]], hosts._LOST)
    with pytest.raises(SystemExit) as end:
        watch(lines, monkeypatch)
    assert (end.value.code, capfd.readouterr().err) == (1, "")


def by_mpirun(pair, folder, arguments):
    """The one command that starts a training on both hosts."""
    settings = ["--prtemca", "plm_ssh_agent", pair.agent, "--bind-to", "none", "--allow-run-as-root"]
    names = [word for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") for word in ("-x", name)]
    script = [sys.executable, "-m", "tests.helpers.tiny", "train"]
    return [pair.on(0, BIN / "mpirun", "-n", "2", "--hostfile", pair.table, *settings, *names, *script, *arguments)]


def by_msrun(pair, folder, arguments):
    """The commands that start a training, one on each host."""
    script = folder / "script.py"
    script.write_text("import sys, runpy\nrunpy.run_module('tests.helpers.tiny', run_name='__main__')\n")
    settings = ["--worker_num=2", "--local_worker_num=1", "--join=True", f"--master_addr={ADDRESSES[0]}"]
    return [
        pair.on(host, BIN / "msrun", *settings, f"--node_rank={host}", f"--log_dir={folder}/log{host}", script, "train",
                *arguments)
        for host in (0, 1)
    ]  # fmt: skip


@contextlib.contextmanager
def started(commands, folder):
    """The processes of commands, and what has been printed by them and on their behalf; they end with the block."""
    log = folder / "log"
    with open(log, "wb") as file, contextlib.ExitStack() as stack:
        jobs = []
        for command in commands:
            words = [str(word) for word in command]
            jobs.append(
                stack.enter_context(subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, stdout=file, stderr=file))
            )
            stack.callback(jobs[-1].kill)
        yield jobs, lambda: "".join(p.read_text(errors="replace") for p in (log, *folder.glob("log?/worker*.log")))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("launcher", [by_mpirun, by_msrun])
def test_two_hosts_train_and_validate_as_one_does(launcher, tmp_path, monkeypatch, capsys):
    data = image_folder(tmp_path / "data", train=(("a", 8), ("b", 8)))
    arguments = train_arguments(data, tmp_path / "out", "--distribute", "True", "--epoch_size", "1")
    with two_hosts(tmp_path) as pair, started(launcher(pair, tmp_path, arguments), tmp_path) as (jobs, told):
        assert [job.wait(PATIENCE) for job in jobs] == [0] * len(jobs), told()[-2000:]
        assert "epoch 1/1 step 2/2" in told()
        assert "on 7 images" in told()
    trained = rows(tmp_path / "out" / "results.csv")[-1]
    words = ["--ckpt_path", str(tmp_path / "out" / "tiny_last.ckpt"), "--report_dir", str(tmp_path / "one")]
    status, _, error = call("validate", [*common(data), *words], monkeypatch, capsys)
    assert status == 0, error
    one = rows(tmp_path / "one" / "results.csv")[0]
    assert float(trained["top1"]) == pytest.approx(float(one["top1"]), abs=1e-6)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("launcher", [by_mpirun, by_msrun])
def test_a_host_that_is_gone_ends_the_job_on_both_sides(launcher, images, tmp_path):
    arguments = runs.arguments(images, tmp_path / "out", "--distribute", "True", "--epoch_size", "100000")
    with two_hosts(tmp_path) as pair, started(launcher(pair, tmp_path, arguments), tmp_path) as (jobs, told):
        for host in (0, 1):  # mpirun takes no notice of a host before TCP does, which takes 15 minutes by default
            pair.run(host, "sysctl", "-qw", "net.ipv4.tcp_retries2=5")
        while "epoch 3/100000 step 1/3" not in told():
            assert all(job.poll() is None for job in jobs), told()[-2000:]
            time.sleep(0.1)
        pair.cut()
        assert [job.wait(PATIENCE) for job in jobs] == [1] * len(jobs)
        assert "error: rank 1 is gone, alone or with its host" in told()
        deadline = time.time() + PATIENCE
        while pair.processes(1):
            assert time.time() < deadline, "the host that was cut off goes on"
            time.sleep(0.1)
    assert runs.states(tmp_path / "out", 0) and runs.states(tmp_path / "out", 1)

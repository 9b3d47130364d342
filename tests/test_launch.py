"""What a process makes of its environment: launchers, addresses of hosts, a home that is missing."""

import fnmatch
import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn

import prologue
from mindcv_models import backend, distributed, process
from mindcv_models.distributed import Launch, join_world, launch
from mindcv_models.errors import InputError
from tests.helpers.launch import PATIENCE

ROOT = Path(__file__).parents[1]
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
MSRUN = {"MS_WORKER_NUM": "2", "MS_SCHED_HOST": "10.0.0.1", "MS_SCHED_PORT": "8118", "MS_ROLE": "MS_WORKER",
         "MS_NODE_ID": "1"}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of launchers, and no other ones are there."""
    for name in (*MPI, *MSRUN, "PMIX_RANK", "PMIX_SERVER_TMPDIR"):
        monkeypatch.delenv(name, raising=False)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_a_launcher_is_known_by_all_of_its_variables(environment, tmp_path):
    environment(**MSRUN)
    assert launch() == Launch("msrun", 1, 2)
    environment(**MPI)
    assert launch() == Launch("mpirun", 3, 4)
    environment(PMIX_SERVER_TMPDIR=str(tmp_path))
    assert launch() == Launch("mpirun", 3, 4)


@pytest.mark.parametrize(
    "values",
    [
        {"MS_NODE_ID": "1"}, {"OMPI_COMM_WORLD_RANK": "3"}, {"OMPI_COMM_WORLD_SIZE": "4"}, {"PMIX_RANK": "1"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "2"}, {**MPI, "OMPI_COMM_WORLD_RANK": "three"},
        {**MPI, "PMIX_SERVER_TMPDIR": "/no/such/folder"}, {"MS_ROLE": "MS_WORKER"},
        {name: value for name, value in MSRUN.items() if name != "MS_SCHED_PORT"}, {**MSRUN, "MS_ROLE": "MS_PSERVER"},
    ],
)  # fmt: skip
def test_what_others_left_in_the_environment_is_no_launcher_and_silences_nothing(environment, capsys, values):
    environment(**values)
    assert launch() == Launch()
    assert join_world(distribute=False) == distributed.ONE_DEVICE

    def fail():
        logging.getLogger("script").info("at work")
        raise InputError("no such folder")

    with pytest.raises(SystemExit) as end:
        process.run(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: no such folder\n"
    assert logging.root.manager.disable == logging.NOTSET


def test_distribute_without_a_launcher_says_what_to_type(environment):
    with pytest.raises(InputError, match=r"mpirun -n 8 python train\.py .* or --distribute False"):
        join_world(distribute=True)


def test_a_launcher_without_distribute_is_refused(environment):
    environment(**MPI)
    with pytest.raises(InputError, match="mpirun started 4 processes, but distribute is False") as error:
        join_world(distribute=False)
    assert error.value.of_one_rank  # so that the fourth of them says it, alone in an outer launcher's shell


def test_kernels_are_kept_with_the_temporary_files_where_there_is_no_home(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(backend.Path, "home", no_home)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = backend._kernel_cache()
    assert folder == tmp_path / f"mindcv_models-{os.getuid()}" / platform.node()
    assert folder.is_dir()
    monkeypatch.setattr(backend.Path, "home", lambda: tmp_path / "home")
    assert backend._kernel_cache() == tmp_path / "home" / ".cache" / "mindcv_models" / platform.node()
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # another user's folder is not trusted
    assert backend._kernel_cache().parent == tmp_path


def test_an_error_is_one_line_however_it_came(capsys):
    def fail():
        raise InputError("no file \x1b[31mred\nerror: \u202eevil" + "x" * 100_000 + ": choose another.")

    with pytest.raises(SystemExit):
        process.run(fail)
    line = capsys.readouterr().err
    assert line.startswith(r"error: no file \x1b[31mred error: \u202eevilxxx")
    assert line.endswith("xxx: choose another.\n")
    assert line.count("\n") == 1
    assert len(line) < 650


@pytest.mark.process
def test_names_that_the_locale_cannot_write_are_escaped():
    code = (
        "import logging\n"
        "from mindcv_models import process\n"
        "def main():\n"
        "    print('\u7ea2\u8272 Gr\u00fcn')\n"
        "    logging.getLogger('x').info('\u84dd')\n"
        "process.run(main)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "GLOG_v": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("latin-1").splitlines() == [r"\u7ea2\u8272" + " Gr\u00fcn", r"\u84dd"]


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    command = f"mkdir gone && cd gone && rmdir ../gone && '{sys.executable}' '{ROOT / 'train.py'}' --help"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    line = "error: no working directory (No such file or directory): change to a folder that exists.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.skipif(not prologue.allocator(), reason="jemalloc is not to be used here: a card, or a space in its path")
@pytest.mark.parametrize(("setting", "used"), [({}, True), ({"LD_PRELOAD": ""}, False)])
def test_scripts_allocate_by_jemalloc(setting, used):
    code = "import prologue, sys; prologue.begin(); print('jemalloc' in open('/proc/self/maps').read(), *sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", code, "one", "two words"], env={**environment, **setting}, cwd=ROOT, capture_output=True,
        text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout == f"{used} one two words\n"


def test_a_broken_pipe_does_not_end_the_compiler_of_kernels(tmp_path):
    code = (
        "import socket, mindspore as ms\n"
        "from mindspore import nn, ops\n"
        "from mindcv_models import backend\n"
        "class Net(nn.Cell):\n"
        "    def construct(self, x): return ops.exp(x * 1.5) + x * 2 - ops.sqrt(x)\n"
        "ms.set_context(mode=ms.GRAPH_MODE)\n"
        "assert backend.fuse_elementwise()\n"
        "Net()(ms.Tensor([1.0, 4.0]))\n"
        "ours, theirs = socket.socketpair()\n"
        "theirs.close()\n"
        "try: ours.send(b'x')\n"
        "except BrokenPipeError: print('broken', end=' ')\n"
        "print(Net()(ms.Tensor([0.0, 0.0, 0.0])).asnumpy().tolist())\n"
    )
    (tmp_path / "script.py").write_text(code)  # MindSpore reads the text of a cell
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", "MS_COMPILER_CACHE_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "broken [1.0, 1.0, 1.0]\n"), done.stderr


@pytest.mark.parametrize("card", ["/dev/davinci0", "/dev/nvidia0"])
def test_the_allocator_of_a_machine_with_a_card_stays(card, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(prologue.glob, "glob", lambda pattern: fnmatch.filter([card], pattern))
    assert prologue.allocator() is None


def test_warnings_of_other_packages_are_no_errors():
    code = (
        "import os, sys, warnings, prologue\n"
        "prologue.begin()\n"
        "warnings.warn('old', DeprecationWarning); warnings.warn('odd')\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import warnings; warnings.warn(\"child\")'])\n"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert [line.partition("UserWarning: ")[2] for line in done.stderr.splitlines() if "UserW" in line] == [
        "odd",
        "child",
    ]


@pytest.mark.process
@pytest.mark.parametrize("sink", ["closed", "full"])
def test_output_that_nobody_reads_costs_no_tracebacks(sink):
    """As into ``head -1``, or onto a full disk: the run goes on, since its files are what counts."""
    code = (
        "import logging, os\n"
        "from mindcv_models import process\n"
        "def main():\n"
        "    for n in range(20_000): logging.getLogger('x').info('a line of some length, number %d', n)\n"
        "    os.write(2, b'done')\n"
        "process.run(main)\n"
    )
    command = f'"{sys.executable}" -c "$CODE" {"| head -1" if sink == "closed" else "> /dev/full"}'
    environment = {**os.environ, "CODE": code, "GLOG_v": "3"}
    done = subprocess.run(
        command, shell=True, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )  # fmt: skip
    assert done.stderr == "done"


def test_a_report_does_not_replace_the_table_of_a_training_run(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,lr,train_loss\n1,0.1,2\n")
    with pytest.raises(InputError, match=r"whose results\.csv is a training run's and would be lost"):
        process.output_folder(str(tmp_path), "report_dir")
    assert process.output_folder(str(tmp_path)) == tmp_path
    (tmp_path / "results.csv").write_text("checkpoint,top1\na,1\n")
    assert process.output_folder(str(tmp_path), "report_dir") == tmp_path


def finish(main):
    """Exit status of a script whose ``main`` is this."""
    with pytest.raises(SystemExit) as left:
        process.run(main)
    return left.value.code


def test_an_output_folder_that_stays_empty_goes_again(tmp_path):
    def fails():
        process.output_folder(str(tmp_path / "a" / "b"))
        raise InputError("no such model.")

    def writes():
        (process.output_folder(str(tmp_path / "a" / "b")) / "file").write_text("text")
        process.output_folder(str(tmp_path / "a" / "c"))

    def finds_one():
        process.output_folder(str(tmp_path / "mine"))

    assert finish(fails) == 2 and not (tmp_path / "a").exists()
    assert finish(writes) == 0 and [p.name for p in (tmp_path / "a").rglob("*")] == ["b", "file"]
    (tmp_path / "mine").mkdir()
    assert finish(finds_one) == 0 and (tmp_path / "mine").is_dir()


def test_what_the_kernel_compiler_leaves_goes_again_unless_it_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "dsa_transfrom.log"
    assert finish(lambda: log.write_text("domain") and None) == 0 and not log.exists()
    log.write_text("mine")
    assert finish(lambda: None) == 0 and log.read_text() == "mine"


def test_a_graph_that_failed_to_compile_leaves_its_file_to_a_traceback_only(tmp_path, monkeypatch):
    class Wrong(nn.Cell):
        def construct(self, x):
            return x.reshape(7, 7)

    def compile_it():
        Wrong()(Tensor(np.zeros(4, np.float32)))

    def refuses():
        with pytest.raises(ValueError, match="reshape"):
            compile_it()
        assert graph.is_file()
        raise InputError("no such size.")

    monkeypatch.chdir(tmp_path)
    graph = tmp_path / "rank_0" / "om" / "analyze_fail.ir"
    assert finish(refuses) == 2 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="reshape"):
        process.run(compile_it)
    assert graph.is_file()
    assert finish(lambda: None) == 0 and graph.is_file()


def test_a_script_whose_output_is_closed_runs_all_the_same(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def main():
        sys.stdout.write("result")
        sys.stderr.write("remark")
        return 3

    assert finish(main) == 3
    for stream in (sys.stdout, sys.stderr):
        stream.close()

"""Graphs that an earlier process compiled: found by everything that they are made of, never by less."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_models import backend
from mindcv_models.graph_cache import VARIABLE, UndescribedError, cache, compile_cached, describe, fingerprint
from tests.helpers import launch
from tests.helpers.images import image_folder
from tests.helpers.launch import ONE, PATIENCE
from tests.helpers.scripts import call, rows, train_arguments

ROOT = Path(__file__).parents[1]
FACTOR = 2.0


def scaled(x, by=1.5):
    return x * by * FACTOR


class Net(nn.Cell):
    offset = 3

    def __init__(self, factor=2.0, shift=(1, 2, 3), channels=3):
        super().__init__()
        self.factor = factor
        self.shift = Tensor(np.array(shift, np.float32))
        self.dense = nn.Dense(3, channels, weight_init="ones")
        self.pool = ops.ReduceMean(keep_dims=True)
        self.twice = lambda x: x * factor

    def construct(self, x):
        return self.twice(scaled(self.pool(self.dense(x + self.shift), 1))) + self.offset + ops.relu(x).mean()


def digest(net=None, shape=(2, 3), dtype=ms.float32):
    return fingerprint(net or Net(), (Tensor(np.ones(shape), dtype),))


def changed(change):
    net = Net()
    change(net)
    return net


def test_equal_networks_have_one_digest_whatever_their_weights():
    other = Net()
    other.dense.weight.set_data(Tensor(np.zeros((3, 3), np.float32)))
    assert digest() == digest(other)


@pytest.mark.parametrize(
    "other",
    [
        lambda: digest(Net(factor=2.5)),
        lambda: digest(Net(shift=(1, 2, 4))),
        lambda: digest(Net(channels=4)),
        lambda: digest(Net().set_train()),
        lambda: digest(changed(lambda net: net.dense.set_train())),
        lambda: digest(shape=(4, 3)),
        lambda: digest(dtype=ms.float16),
        lambda: digest(changed(lambda net: setattr(net.dense.weight, "requires_grad", False))),
        lambda: digest(changed(lambda net: setattr(net, "pool", ops.ReduceMean(keep_dims=False)))),
        lambda: digest(changed(lambda net: net.to_float(ms.float16))),
    ],
    ids=["number", "constant", "parameter", "training", "part", "shape", "type", "frozen", "operator", "precision"],
)
def test_what_changes_the_network_changes_the_digest(other):
    assert other() != digest()


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (sys.modules[__name__], "FACTOR", 3.0),
        (sys.modules[__name__], "scaled", lambda x: x * 2),
        (scaled, "__defaults__", (2.5,)),
        (Net, "offset", 4),
        (Net, "construct", lambda self, x: x),
        (nn.Dense, "construct", lambda self, x: x),
        (ops, "relu", lambda x: x),
        (ms, "__version__", "2.8.1"),
    ],
    ids=["global", "function", "default", "attribute", "method", "method-of-mindspore", "operator", "version"],
)
def test_what_the_code_refers_to_changes_the_digest(target, name, value, monkeypatch):
    before = digest()
    monkeypatch.setattr(target, name, value)
    assert digest() != before
    monkeypatch.undo()
    assert digest() == before


def test_constants_in_functions_without_a_source_file_change_the_digest():
    def made(text):
        variables = {"__name__": "typed"}
        exec(text, variables)
        return digest(changed(lambda net: setattr(net, "twice", variables["f"])))

    first = made("def f(x): return x + 1")
    assert made("def f(x): return x + 1") == first
    assert made("def f(x): return x + 2") != first  # a constant
    assert made("def f(x): return x.abs()") != made("def f(x): return x.exp()")  # a name
    assert made("def f(x): return (lambda: x + 1)()") != made("def f(x): return (lambda: x + 2)()")


def test_tied_parameters_are_told_from_two():
    tied, two = Net(), Net()
    tied.other = tied.dense
    two.other = nn.Dense(3, 3, weight_init="ones")
    assert digest(tied) != digest(two)


def test_settings_change_the_digest(monkeypatch):
    before = digest()
    monkeypatch.setenv("MS_DEV_SOMETHING", "1")
    assert digest() != before
    monkeypatch.delenv("MS_DEV_SOMETHING")
    ms.set_context(max_call_depth=1001)
    try:
        assert digest() != before
    finally:
        ms.set_context(max_call_depth=1000)
    assert digest() == before


def test_what_cannot_be_described_is_refused(monkeypatch):
    with pytest.raises(UndescribedError, match=r"^Net\.source: builtins\.list_iterator$"):
        digest(changed(lambda net: setattr(net, "source", iter([1, 2]))))
    twin = Parameter(Tensor([1.0]), name="dense.weight")
    with pytest.raises(UndescribedError, match=r"two parameters are called dense\.weight"):
        digest(changed(lambda net: object.__setattr__(net, "double", twin)))
    with pytest.raises(UndescribedError, match="an input is not a tensor"):
        fingerprint(Net(), (Tensor([1.0]), 2))
    monkeypatch.setattr(describe, "_start_of_process", lambda: Path(__file__).stat().st_ctime - 1)
    with pytest.raises(UndescribedError, match=r" has changed since this process began$"):
        digest()


class Step(nn.Cell):
    """Updates a parameter that no cell lists."""

    def __init__(self, factor, weight):
        super().__init__()
        self.factor = factor
        object.__setattr__(self, "weight", weight)

    def construct(self, x):
        return ops.depend(x * self.factor, ops.assign_add(self.weight, x))


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The cache is on, and its folder is empty."""
    backend.fuse_elementwise()
    Step(1.0, parameter(0.0))(Tensor([1.0]))  # the first compilation of a process imports modules, which count
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(cache, "_folder", lambda: tmp_path)
    return tmp_path


def outcome(factor, weight):
    """Of a step that adds 1 to the weight and returns the factor."""
    step = Step(factor, weight)
    found = compile_cached("step", step, Tensor([1.0]))
    before = weight.asnumpy().copy()
    assert step(Tensor([1.0])).asnumpy() == [factor]
    assert weight.asnumpy() == before + 1
    return found


def parameter(value, name="weight"):
    return Parameter(Tensor([value]), name=name)


def test_several_graphs_of_a_process_take_part_and_use_its_own_parameters(own_folder):
    assert [outcome(2.0, parameter(0.0)), outcome(3.0, parameter(0.0))] == ["written", "written"]
    assert [outcome(3.0, parameter(5.0)), outcome(2.0, parameter(7.0))] == ["read", "read"]
    assert outcome(2.0, parameter(0.0, "other")) == "written"
    compiled = Step(9.0, parameter(0.0))
    assert compiled(Tensor([1.0])).asnumpy() == [9.0]
    assert compile_cached("step", compiled, Tensor([1.0])) is None


def test_a_damaged_graph_is_compiled_again(own_folder):
    outcome(2.0, parameter(0.0))
    (file,) = own_folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert [outcome(2.0, parameter(0.0)), outcome(2.0, parameter(0.0))] == ["written", "read"]


def test_what_mindspore_cannot_read_is_compiled_without_it(own_folder, caplog):
    cache._save(own_folder / describe.fingerprint(Step(2.0, parameter(0.0)), (Tensor([1.0]),)), b"no graph")
    with caplog.at_level("INFO"):
        assert outcome(2.0, parameter(0.0)) is None
    assert "step: compiled without the graph cache: " in caplog.text
    assert list(own_folder.iterdir()) == []
    assert [outcome(2.0, parameter(0.0)), outcome(2.0, parameter(0.0))] == ["written", "read"]


def test_a_second_process_goes_without(own_folder, caplog):
    cache._say_once.cache_clear()
    lock = cache._place().with_name("graph_cache.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file, caplog.at_level("INFO"):
        fcntl.flock(file, fcntl.LOCK_EX)
        assert outcome(2.0, parameter(0.0)) is None
    assert caplog.messages == ["step: compiled without the graph cache: another process is using it"]
    assert outcome(2.0, parameter(0.0)) == "written"


def test_the_graphs_that_were_used_longest_ago_make_room(own_folder, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 2 * (32 + 100))
    for name, age in (("a", 30), ("b", 20), ("c", 10)):
        cache._save(own_folder / name, bytes(100))
        os.utime(own_folder / name, (1e9 - age, 1e9 - age))
    assert sorted(path.name for path in own_folder.iterdir()) == ["b", "c"]
    assert cache._load(own_folder / "b") == bytes(100)  # and is the newest now
    cache._save(own_folder / "d", bytes(100))
    assert sorted(path.name for path in own_folder.iterdir()) == ["b", "d"]


def test_eager_networks_and_several_ranks_go_without(monkeypatch, eager, caplog):
    monkeypatch.setenv(VARIABLE, "1")
    with caplog.at_level("INFO"):
        assert compile_cached("network", Net(), Tensor([1.0])) is None
        ms.set_context(mode=ms.GRAPH_MODE)
        monkeypatch.setenv("MS_ROLE", "MS_WORKER")
        assert compile_cached("other", Net(), Tensor([1.0])) is None
    assert caplog.messages == [
        "network: compiled without the graph cache: it is for graph mode, --mode 0",
        "other: compiled without the graph cache: it is for one process, not for several ranks",
    ]


def test_who_did_not_ask_for_the_cache_is_not_told_where_it_cannot_be_used(monkeypatch, eager, caplog):
    cache._say_once.cache_clear()
    monkeypatch.delenv(VARIABLE)
    with caplog.at_level("INFO"):
        assert compile_cached("network", Net(), Tensor([1.0])) is None
    assert caplog.messages == []


def test_the_cache_is_used_unless_it_is_switched_off(own_folder, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert outcome(2.0, parameter(0.0)) == "written"
    monkeypatch.setenv(VARIABLE, "0")
    assert outcome(2.0, parameter(0.0)) is None


NETWORK = """
from mindspore import Parameter, Tensor, nn

class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0]), name="weight")

    def construct(self, x):
        return x * self.weight * 2
"""
SCRIPT = """
import mindspore as ms
from network import Net
from mindcv_models import backend
from mindcv_models.graph_cache import compile_cached

ms.set_context(mode=ms.GRAPH_MODE)
net, x = Net(), ms.Tensor([1.0, 1.0])
print(compile_cached("network", net, x), net(x).asnumpy().tolist())
"""


@pytest.mark.process
def test_a_later_process_reads_a_graph_unless_a_source_changed(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: "1", "GLOG_v": "3"}
    environment["MS_COMPILER_CACHE_PATH"] = str(tmp_path / "cache")

    def printed():
        command = [sys.executable, str(tmp_path / "script.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip().splitlines()[-1]

    assert printed() == "written [2.0, 4.0]"
    assert printed() == "read [2.0, 4.0]"
    (tmp_path / "network.py").write_text(NETWORK.replace("* 2", "* 3"))
    assert printed() == "written [3.0, 6.0]"


def results(folder):
    """A run's table, without times, and all weights of its checkpoints."""
    table = [{**row, "seconds": "", "images_per_second": ""} for row in rows(folder / "results.csv")]
    weights = {
        f"{path.name} {key}": value.asnumpy()
        for path in sorted(folder.glob("*.ckpt"))
        for key, value in ms.load_checkpoint(str(path)).items()
    }
    return table, weights


@pytest.fixture
def run_of(tmp_path, monkeypatch, capsys, caplog):
    """A function that trains with options, and returns the log and all results of the run."""
    data = image_folder(tmp_path / "data")
    monkeypatch.setattr(cache, "_folder", lambda: tmp_path / "graphs")

    def run(name, *more):
        monkeypatch.setenv(VARIABLE, "0")  # the option of the run before holds for the process
        caplog.clear()
        with caplog.at_level("INFO"):
            status, *_ = call("train", train_arguments(data, tmp_path / name, *more), monkeypatch, capsys)
        assert status == 0
        lines = [line.rpartition(" in ")[0] for line in caplog.messages if "graph cache" in line]
        return [lines, *results(tmp_path / name)]

    return run


GRAPHS = "graph of the training step", "graph of the validation"
WRITTEN, READ = (
    [f"{graph}: {words} the graph cache" for graph in GRAPHS] for words in ("compiled, and written to", "read from")
)


def assert_equal_runs(one, other):
    assert one[1] == other[1]
    assert one[2].keys() == other[2].keys()
    for name, value in one[2].items():
        np.testing.assert_array_equal(value, other[2][name], name)


@pytest.mark.process
def test_runs_with_graphs_from_the_cache_end_bit_for_bit_alike(run_of):
    plain = run_of("plain")
    assert plain[0] == []
    first, second = run_of("first", "--graph_cache", "True"), run_of("second", "--graph_cache", "True")
    assert first[0] == WRITTEN
    assert second[0] == READ
    assert_equal_runs(plain, first)
    assert_equal_runs(plain, second)
    other = run_of("other", "--graph_cache", "True", "--label_smoothing", "0.2")
    assert other[0][0] == WRITTEN[0]
    assert_equal_runs(run_of("plain_other", "--label_smoothing", "0.2"), other)


@pytest.mark.process
def test_a_run_killed_and_resumed_with_graphs_from_the_cache_ends_as_one_without(run_of, tmp_path):
    plain = run_of("plain", "--ema", "True", "--save_every", "2")
    command = [*ONE, "-m", "tests.helpers.tiny", "train", *train_arguments(tmp_path / "data", tmp_path / "killed")]
    command += ["--ema", "True", "--save_every", "2", "--graph_cache", "True"]
    own = {"MS_COMPILER_CACHE_PATH": str(tmp_path / "cache")}
    killed = launch.run(*command, **own, DIE_IN_SAVE="2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = launch.run(*command, "--resume", "auto", **own)
    assert resumed.returncode == 0, resumed.stderr
    lines = [line.rpartition(" in ")[0] for line in resumed.stdout.splitlines() if "graph cache" in line]
    assert lines[0] == READ[0]
    assert_equal_runs(plain, [lines, *results(tmp_path / "killed")])


# Pairs of runs that share a cache: each option changes what the graph computes, and nothing that a file's text shows.
CHANGES = [
    ("--loss", "BCE"),
    ("--opt", "adamw"),
    ("--opt", "adamw", "--weight_decay", "0.2"),
    ("--opt", "adamw", "--opt_betas", "0.8", "0.9"),
    ("--opt", "adamw", "--opt_eps", "0.001"),
    ("--opt", "lamb"),
    ("--opt", "sophiag", "--sophia_k", "2"),
    ("--opt", "sophiag", "--sophia_k", "2", "--sophia_rho", "0.2"),
    ("--momentum", "0.5"),
    ("--use_nesterov", "True"),
    ("--weight_decay", "0.3"),
    ("--lr", "0.1"),
    ("--warmup_epochs", "1", "--decay_epochs", "1"),
    ("--drop_path_rate", "0.5"),
    ("--freeze", "stem.*"),
    ("--freeze", "branch.*"),
    ("--amp_level", "O2"),
    ("--gradient_accumulation_steps", "2"),
    ("--loss_scale", "1024", "--loss_scale_type", "dynamic", "--drop_overflow_update", "True"),
    ("--ema", "True"),
    ("--ema", "True", "--ema_decay", "0.5"),
    ("--ema", "True", "--mesa", "0.5", "--mesa_start_ratio", "0.4"),
    ("--clip_grad", "True", "--clip_value", "0.01"),
    ("--clip_grad", "True", "--clip_value", "0.02"),
    ("--layer_decay", "0.5"),
    ("--image_resize", "48"),
    ("--batch_size", "3"),
    ("--mixup", "0.5"),
    ("--seed", "7"),
]


@pytest.mark.slow
@pytest.mark.process
def test_no_option_gets_the_graph_of_another(run_of, tmp_path):
    run_of("warm")
    run_of("base", "--graph_cache", "True")
    three_classes = image_folder(tmp_path / "three", [(name, 5) for name in "abc"], [(name, 2) for name in "abc"])
    for number, options in enumerate([*CHANGES, ("--data_dir", str(three_classes))]):
        plain = run_of(f"plain_{number}", *options)
        first, second = (run_of(f"{turn}_{number}", *options, "--graph_cache", "True") for turn in ("first", "second"))
        assert any(": compiled, and written" in line for line in first[0])
        assert any(": read from" in line for line in second[0])
        assert_equal_runs(plain, first)
        assert_equal_runs(plain, second)

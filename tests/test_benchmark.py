"""benchmark.py: what it measures, counts and says, on networks small enough for a test."""

import csv
import importlib.util
import os
import re
import signal
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import pytest
from matplotlib.figure import Figure
from mindspore import Tensor, nn

import benchmark
import mindcv_models
from mindcv_models import backend
from mindcv_models.benchmark import Job, Timing, header, line, plot, row_of, subject, titles, worker
from mindcv_models.benchmark.plot import write_names
from mindcv_models.benchmark.published import PUBLISHED
from mindcv_models.benchmark.subject import OutOfMemoryError, TimedModel
from mindcv_models.errors import InputError
from tests.helpers.scripts import call
from tools import first_call_benchmark

ROOT = Path(__file__).parents[1]

# What MindSpore 2.8.0 says: on the CPU as it was raised, for the other back ends by the words in its libraries.
OUT_OF_MEMORY = {
    "kernel": "Memory not enough:\nMemory isn't enough and alloc failed, kernel name: Conv2D-op2, alloc size: 65766B.",
    "GPU": "Memory not enough:\nAlloc device memory[536870912] failed.",
    "Ascend": "Framework Error Message:\nOut of Memory!!! Request memory size: 1024B, Memory Statistic:",
    "Ascend pool": "Malloc device memory failed, size[1024], ret[207001]",
    "eager": "Malloc for kernel output failed, Memory isn't enough, node:Conv2D",
    "eager, GPU": "Allocate device memory failed, alloc size: 1024",
}


class Tiny(nn.Cell):
    """A classifier of 3-channel images of any size."""

    def __init__(self):
        super().__init__()
        self.head = nn.Dense(3, 1000)

    def construct(self, x):
        return self.head(x.mean((2, 3)))


class Hungry:
    """Stands for a network that fails with more than two images."""

    def __init__(self, message):
        self.message = message

    def set_train(self, _):
        return self

    def __call__(self, images):
        if len(images) > 2:
            raise RuntimeError(self.message)
        return images


def building(monkeypatch, network):
    monkeypatch.setattr(subject, "network_of", lambda job: network)


@pytest.mark.parametrize(("train", "mode"), [(False, 0), (True, 0), (True, 1)])
def test_a_subject_is_timed(monkeypatch, train, mode):
    network = Tiny()
    before = network.head.weight.asnumpy().copy()
    building(monkeypatch, network)
    try:
        measured = TimedModel(Job("tiny", train, batch_size=2, image_size=(4, 6), mode=mode, warmup=1, queued=3))
        times = [measured.first, *measured.turn()]
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    assert all(time > 0 for time in times)
    assert measured.device == "CPU"
    assert 0 <= measured.memory() < 2e9
    assert (network.head.weight.asnumpy() != before).any() == train  # a training step is one
    assert network.training == train


def test_the_first_call_and_the_warm_up_are_not_in_the_turns(monkeypatch):
    clock, seconds = [0.0], iter((9.0, 4.0, 1.0, 2.0, 3.0, 4.0))  # compilation, warm-up, one call, and three

    def call():
        clock[0] += next(seconds)
        return Tensor(0)

    monkeypatch.setattr(TimedModel, "_build", lambda _: (call, Tiny()))
    monkeypatch.setattr(subject, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    measured = TimedModel(Job("tiny", warmup=1, queued=3))
    assert (measured.first, measured.turn()) == (9.0, (1.0, 3.0))
    assert next(seconds, None) is None


@pytest.mark.parametrize("message", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_memory_errors_are_told_from_others(monkeypatch, message):
    building(monkeypatch, Hungry(message))
    with pytest.raises(OutOfMemoryError):
        TimedModel(Job("hungry", batch_size=4, image_size=(2, 2), reparam=False))
    assert backend.is_out_of_memory(MemoryError())


def test_another_error_stays_what_it_is(monkeypatch):
    building(monkeypatch, Hungry("For 'MatMul', the shapes do not fit."))
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        TimedModel(Job("hungry", batch_size=4, image_size=(2, 2), reparam=False))
    assert not isinstance(caught.value, OutOfMemoryError)


def test_the_batch_is_halved_until_it_fits(monkeypatch, caplog):
    building(monkeypatch, Hungry(OUT_OF_MEMORY["kernel"]))
    monkeypatch.setattr(worker, "Worker", TimedModel)
    fitted = worker.fitting(Job("hungry", batch_size=9, image_size=(2, 2), reparam=False))
    assert fitted.job.batch_size == 2
    assert [re.search(r"batch size (\d+)", r.message)[1] for r in caplog.records] == ["9", "4"]


def test_what_does_not_fit_at_all_is_said(monkeypatch):
    def full(job):
        raise OutOfMemoryError("no")

    monkeypatch.setattr(worker, "Worker", full)
    with pytest.raises(InputError, match="hungry: even one image does not fit"):
        worker.fitting(Job("hungry"))


@pytest.mark.process
def test_a_worker_is_a_process_and_its_death_is_a_lack_of_memory():
    with worker.Worker(Job("squeezenet1_1", batch_size=1, image_size=(32, 32))) as running:
        device, first = running.start
        assert device == "CPU"
        assert min(first, *running.ask("turn")) > 0
        os.kill(running.process.pid, signal.SIGKILL)
        with pytest.raises(OutOfMemoryError, match="the system killed its process"):
            running.ask("turn")


@pytest.mark.parametrize(
    ("model", "batch_size", "error", "words"),
    [
        ("squeezenet1_9", 1, InputError, "squeezenet1_9"),
        ("inception_v3", 1, InputError, "inception_v3 does not support images of 32 x 32"),
        ("squeezenet1_1", -1, RuntimeError, "squeezenet1_1:\nTraceback"),
    ],
)
@pytest.mark.process
def test_a_workers_error_is_raised_here(model, batch_size, error, words):
    with pytest.raises(error, match=words):
        worker.Worker(Job(model, batch_size=batch_size, image_size=(32, 32)))


def test_rounds_alternate_and_the_ratio_is_of_the_same_rounds(monkeypatch):
    order = []

    class Scripted:
        def __init__(self, job):
            self.job, self.start = job, ("CPU", 5.0)
            self.seconds = {"slow": iter([8.0, 8.0, 4.0, 4.0]), "fast": iter([1.0, 1.0])}[job.model]

        def ask(self, question):
            if question == "memory":
                return None
            order.append(self.job.model)
            seconds = next(self.seconds)
            return seconds + 1, seconds

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(worker, "Worker", Scripted)
    slow, fast = worker.measure([Job("slow", batch_size=8), Job("fast", batch_size=4)], rounds=2)
    assert order == ["slow", "slow", "fast", "slow", "fast", "slow"]
    assert (slow.ratio, slow.images_per_second, slow.compile_time) == (1, 1, 0)
    assert (fast.ratio, fast.images_per_second, fast.compile_time) == (2, 4, 3)


def timing(model="squeezenet1_1", **options):
    job = Job(model, batch_size=4, image_size=(32, 32), **options)
    return Timing(job, "CPU", 3.0, [0.2, 0.1, 0.4, 0.3, 0.5], [0.1, 0.2, 0.3], 5_000_000, 1.5)


def test_a_row_has_every_figure():
    row = row_of(timing())
    expected = {"what": "inference", "fused": "no", "size": "32x32", "batch": 4, "parameters": 1_235_496,
                "fused parameters": 1_235_496, "latency ms": 300, "lower quartile": 200, "upper quartile": 400,
                "compile s": 2.7, "images/s": 20, "ratio": 1.5, "memory": 5_000_000, "top-1": None, "device": "CPU",
                "mode": "graph", "amp_level": "O0", "mindspore": "2.8.0"}  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    shown = line(row, 13)
    assert shown.split() == ["squeezenet1_1", "inference", "no", "32x32", "4", "1.24", "1.24", "0.00", "2.7", "300.0",
                             "200.0-400.0", "20.0", "1.50", "5"]  # fmt: skip
    assert len(titles(13)) == len(shown)
    assert "CPU, " in header(timing())
    assert "graph mode, amp_level O0" in header(timing())


def test_a_row_knows_both_forms():
    fused, training = row_of(timing("fastvit_t8")), row_of(timing("fastvit_t8", train=True))
    assert (fused["fused"], training["fused"], training["what"]) == ("yes", "no", "train")
    assert [(row["parameters"], row["fused parameters"]) for row in (fused, training)] == [(4_026_232, 3_996_040)] * 2
    assert fused["MACs"] < training["MACs"]
    assert (fused["top-1"], fused["published by"][:11]) == (76.2, "Vasu et al.")


def test_published_figures_agree_with_the_readme_and_the_recipes():
    readme = (ROOT / "README.md").read_text()
    printed = {name: float(top1) for name, top1 in re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", readme, re.MULTILINE)}
    for name in set(printed) & set(PUBLISHED):
        if printed[name] > 50:  # an accuracy, not a ratio of speeds
            assert PUBLISHED[name].top1 == printed[name]
    recipes = 0
    for name in PUBLISHED:  # the plain recipe of a model, not one of distillation or another size
        for path in (ROOT / "configs").glob(f"*/{name}_ascend.yaml"):
            published = re.search(r"# Published: ([\d.]+) % top-1", path.read_text())
            assert PUBLISHED[name].top1 == float(published[1])
            recipes += 1
    assert recipes >= 15
    assert {*mindcv_models.list_models("fastvit_*"), *mindcv_models.list_models("litv2_*")} <= set(PUBLISHED)


def test_patterns_stand_for_models():
    assert benchmark.named(["resnet50", "fastvit_sa*", "fastvit_sa24"]) == [
        "resnet50", "fastvit_sa12", "fastvit_sa24", "fastvit_sa36",
    ]  # fmt: skip


@pytest.mark.process
def test_the_script_prints_a_table_and_writes_it(tmp_path, monkeypatch, capsys):
    table, turns, take_turns = tmp_path / "speed.csv", [], worker.take_turns
    monkeypatch.setattr(worker, "take_turns", lambda *args: turns.append(take_turns(*args)) or turns[-1])
    arguments = ["--models", "squeezenet1_1", "squeezenet1_*", "--batch_size", "2", "--image_size", "64", "72",
                 "--rounds", "2", "--csv", str(table)]  # fmt: skip
    status, out, error = call("benchmark", arguments, monkeypatch, capsys)
    assert status == 0, error
    lines = out.strip().splitlines()
    assert [text.split()[0] for text in lines] == ["CPU,", "model", "squeezenet1_1", "squeezenet1_0"]
    with open(table) as file:
        first, second = csv.DictReader(file)
    assert (first["model"], first["size"], first["batch"], first["ratio"]) == ("squeezenet1_1", "64x72", "2", "1.0")
    assert float(second["MACs"]) > float(first["MACs"]) > 1e6
    model, baseline = turns[1]
    assert float(second["images/s"]) == model.images_per_second
    assert float(second["ratio"]) == model.images_per_second / baseline.images_per_second


def test_the_script_times_every_batch_size_and_training_and_draws(tmp_path, monkeypatch, capsys):
    groups = []

    def measure(jobs, rounds):
        groups.append([(job.model, job.train, job.batch_size) for job in jobs])
        return [Timing(job, "CPU", 3.0, [0.2], [0.1]) for job in jobs]

    monkeypatch.setattr(benchmark, "measure", measure)
    picture = tmp_path / "speed.png"
    arguments = ["--models", "fastvit_t8", "--batch_size", "1", "8", "--train", "--image_size", "64",
                 "--plot", str(picture)]  # fmt: skip
    status, out, error = call("benchmark", arguments, monkeypatch, capsys)
    assert status == 0, error
    assert groups == [[("fastvit_t8", train, batch)] for train in (False, True) for batch in (1, 8)]
    assert len(out.strip().splitlines()) == 6
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_the_models_whose_accuracy_is_known(tmp_path):
    path = tmp_path / "speed.svg"
    plot({"fastvit_t8": 90.0, "fastvit_sa24": 26.0, "resnet50": 32.0, "squeezenet1_1": 99.0}, str(path), "on a CPU")
    drawn = path.read_text()
    assert all(name in drawn for name in ("fastvit_t8", "fastvit_sa24", "resnet50", "on a CPU"))
    assert "squeezenet1_1" not in drawn


def test_names_in_the_picture_do_not_cover_each_other():
    axes = Figure(figsize=(8, 5), dpi=100, layout="constrained").subplots()
    points = [(25.8, 82.0, "litv2_s"), (27.1, 82.1, "faster_vit_0_224"), (27.0, 82.2, "poolformer"), (60, 77, "far")]
    axes.plot(*list(zip(*points))[:2], marker="o")
    write_names(axes, points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [name for _, _, name in points]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


WRONG = {
    "model": (["--models", "fastvit_t9"], "no model is called 'fastvit_t9': did you mean fastvit_t8?"),
    "pattern": (["--models", "slowvit_*"], "no model is called 'slowvit_*'"),
    "no model": (["--models"], "models is empty"),
    "batch": (["--batch_size", "8", "0"], "batch_size is 8 0, but must be at least 1."),
    "no batch": (["--batch_size"], "batch_size is empty: give one or several, such as 8."),
    "rounds": (["--rounds", "0"], "rounds is 0, but must be at least 1."),
    "warm-up": (["--warmup", "-1"], "warmup is -1, but must be at least 0."),
    "size": (["--image_size", "1", "2", "3"], "must be one size, or height and width"),
    "level": (["--amp_level", "O7"], "amp_level is 'O7', which is not known"),
    "mode": (["--mode", "2"], "mode is 2, which is not known"),
    "csv": (["--csv", "absent/speed.csv"], "csv is absent/speed.csv, but must be a file in a folder that is there."),
    "csv folder": (["--csv", "."], "csv is ., but must be a file"),
    "plot": (["--plot", "speed.txt"], "plot is speed.txt, but must end in .png"),
    "plot of nothing": (["--models", "squeezenet1_1", "--plot", "speed.png"], "plot has no data"),
    "option": (["--modles", "resnet50"], "unknown option --modles: did you mean --models?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, case):
    arguments, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    status, _, error = call("benchmark", arguments, monkeypatch, capsys)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_plot_without_matplotlib_is_refused_at_once(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    status, _, error = call("benchmark", ["--plot", "speed.png"], monkeypatch, capsys)
    assert (status, error.split(":")[1]) == (2, " plot needs matplotlib")


def test_a_first_call_is_shown_as_a_multiple_of_the_yardsticks():
    seconds = {"here": {"tiny": [3.0, 2.0, 9.0], "resnet": [2.0]}, "other": {"tiny": [4.0, 6.0, 5.0]}}
    expected = ("tiny", "training", "3.0 (2.0-9.0)", "1.50", "5.0 (4.0-6.0)", "0.60")
    assert first_call_benchmark.row_of("tiny", True, ["resnet"], seconds) == expected
    del seconds["other"]
    assert first_call_benchmark.row_of("tiny", True, ["resnet"], seconds) == expected[:4]
    with pytest.raises(InputError, match="other is nowhere, but must be a folder that has this project's"):
        first_call_benchmark.FirstCallOptions(other="nowhere").check()

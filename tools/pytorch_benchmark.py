"""Compare speed, first call and memory with PyTorch, each in a process of its own, taking turns.

    python tools/pytorch_benchmark.py
    python tools/pytorch_benchmark.py --models fastvit_t8 faster_vit_0_224 --train True --compiled True --csv table.csv

PyTorch's side is timm's FastViT (fused for inference), the fastervit package, and timm for others, such as resnet50:
pip install torch torchvision timm fastervit. In float32 on the CPU, with random weights, on noise in memory.
The ratio is PyTorch's time over ours: above 1, ours is faster. A training step is forward, backward and AdamW's update.
Memory is the peak above what the packages take before a network is built, so it includes compilation. "First" is the
first call's seconds; kernels that an earlier run of ours compiled are found again.
"""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from mindcv_models.benchmark import Job, Timing, Worker, take_turns, write_csv
from mindcv_models.errors import InputError
from mindcv_models.options import option, parse
from mindcv_models.process import run

PEER = Path(__file__).with_name("pytorch_peer.py")


@dataclass
class PyTorchOptions:
    models: Tuple[str, ...] = option(("fastvit_t8", "fastvit_sa24", "faster_vit_0_224", "resnet50"), "names of models")
    batch_sizes: Tuple[int, ...] = option((1, 8), "batch sizes", at_least=1)
    image_size: int = option(224, "height and width of images", at_least=32)
    inference: bool = option(True, "time inference")
    train: bool = option(False, "time a training step too")
    eager: bool = option(True, "time PyTorch without compilation")
    compiled: bool = option(False, "time torch.compile too; a model that it cannot compile is named and left out")
    graph_cache: bool = option(False, "read this project's compiled graphs of earlier runs, as its scripts do")
    threads: int = option(2, "cores that either side runs on", at_least=1)
    rounds: int = option(8, "turns of each", at_least=1)
    csv: Optional[str] = option(None, "write the table there too", path=True)

    def check(self) -> None:
        if not self.models or not self.batch_sizes:
            raise InputError("models and batch_sizes must name one each, at least.")
        if not (self.inference or self.train) or not (self.eager or self.compiled):
            raise InputError("nothing to time: choose inference or train, and eager or compiled.")


class PeerProcess:
    """A process of ``tools/pytorch_peer.py``; what :func:`take_turns` asks of a worker.

    Raises:
        InputError: a package is missing or has no such model.
        RuntimeError: PyTorch could not run the job; with its last line.
    """

    def __init__(self, job: Job, compiled: bool, threads: int):
        self.job = job
        settings = {"model": job.model, "train": job.train, "batch_size": job.batch_size, "image_size": job.size,
                    "queued": job.queued, "warmup": job.warmup, "compiled": compiled, "threads": threads}  # fmt: skip
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115, a pipe would fill up
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        try:
            first = self._answer()
            if isinstance(first, dict):
                raise InputError(first["error"])
        except BaseException:
            self.close()
            raise
        self.start = "CPU", first

    def ask(self, question: str):
        with contextlib.suppress(BrokenPipeError):  # the process has ended: its answer is missing
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError((self.errors.read().strip().splitlines() or ["its process ended"])[-1])
        return json.loads(line)


def compared(job: Job, options: PyTorchOptions):
    """Rows of the table for a job: one for each form of PyTorch's."""
    with contextlib.ExitStack() as stack:
        workers = {"ours": stack.enter_context(Worker(job))}
        for form in [form for form in ("eager", "compiled") if getattr(options, form)]:
            try:
                peer = PeerProcess(job, form == "compiled", options.threads)
            except RuntimeError as error:
                print(f"{job.model}, PyTorch {form}: {error}", file=sys.stderr, flush=True)
                continue
            workers[form] = stack.enter_context(peer)
        timings = dict(zip(workers, take_turns(list(workers.values()), options.rounds)))
    ours = timings.pop("ours")
    return [row_of(form, ours, peer) for form, peer in timings.items()]


def row_of(form: str, ours: Timing, peer: Timing):
    """The columns of a row, by title."""
    ratio = np.divide(peer.latencies, ours.latencies)
    job = ours.job
    return {
        "model": job.model,
        "what": "training" if job.train else "inference",
        "batch": str(job.batch_size),
        "PyTorch": form,
        "PyTorch ms": quartiles(1e3 * np.array(peer.latencies), ".1f"),
        "ours ms": quartiles(1e3 * np.array(ours.latencies), ".1f"),
        "ratio": quartiles(ratio, ".2f"),
        "first s, PyTorch / ours": f"{peer.first:.1f} / {ours.first:.1f}",
        "MB, PyTorch / ours": " / ".join("" if t.memory is None else f"{t.memory / 1e6:.0f}" for t in (peer, ours)),
    }


def quartiles(values, form) -> str:
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:{form}} ({low:{form}}-{high:{form}})"


def processor() -> str:
    """The processor's name, and which of the vector instructions that matter here it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*:\s*(.*)", text)
    flags = set(text.split())
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{name[1] if name else platform.processor()} ({vectors})"


def main():
    options = parse(PyTorchOptions, __doc__)
    if hasattr(os, "sched_setaffinity"):  # both sides inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    print(f"{processor()}, {options.threads} threads, {options.image_size} x {options.image_size}, float32", flush=True)
    rows, size = [], (options.image_size,) * 2
    for train in [train for train, wanted in ((False, options.inference), (True, options.train)) if wanted]:
        for model in options.models:
            for batch_size in options.batch_sizes:
                job = Job(model, train=train, batch_size=batch_size, image_size=size, device_target="CPU",
                          graph_cache=options.graph_cache)  # fmt: skip
                for row in compared(job, options):
                    if not rows:
                        print("|".join(["", *row, ""]), "|".join(["", *["---"] * len(row), ""]), sep="\n")
                    rows.append(row)
                    print("| " + " | ".join(row.values()) + " |", flush=True)
                    if options.csv:
                        write_csv(rows, options.csv)


if __name__ == "__main__":
    run(main)

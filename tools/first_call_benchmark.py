"""Time the first call of a process, compilation included, as multiples of the first model's, in alternating turns.

    python tools/first_call_benchmark.py
    python tools/first_call_benchmark.py --models resnet50 fastvit_t8 --train True --rounds 3
    python tools/first_call_benchmark.py --graph_cache True --train True
    python tools/first_call_benchmark.py --models fastvit_t8 --cached False --other ../another-checkout

Every turn is a process of its own. By default compiled kernels are those of earlier runs, which one turn that does not
count makes sure of; with ``--cached False`` each turn begins with none. With ``--graph_cache True`` compiled graphs are
those of earlier runs too, and the first model is timed without them as well. A training step is forward, backward and
AdamW's update. With ``--other`` each turn runs a second checkout of this project too, and its ratio is this one's time
over that one's. Environment variables, such as LD_PRELOAD, hold for every process.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from mindcv_models.errors import InputError
from mindcv_models.options import option, parse
from mindcv_models.process import run

HERE = Path(__file__).resolve().parents[1]

# Both checkouts run this, each as its scripts begin; an older one has no such beginning, or another name for the class.
CHILD = """
import contextlib, json, sys
with contextlib.suppress(ImportError):
    import prologue
    prologue.begin()
from mindcv_models.benchmark import subject
settings = json.loads(sys.argv[1])
timed = getattr(subject, "TimedModel", None) or subject.Subject
print(timed(subject.Job(**settings)).first)
"""


@dataclass
class FirstCallOptions:
    models: Tuple[str, ...] = option(
        ("resnet50", "fastvit_t8", "faster_vit_0_224", "litv2_s"), "names of models; the first is the yardstick"
    )
    batch_size: int = option(8, "images per batch", at_least=1)
    image_size: int = option(224, "height and width of images", at_least=32)
    inference: bool = option(True, "time inference")
    train: bool = option(False, "time a training step too")
    cached: bool = option(True, "find the kernels that earlier runs compiled")
    graph_cache: bool = option(False, "find the graphs that earlier runs compiled too")
    other: Optional[str] = option(None, "another checkout of this project, to compare with", path=True)
    rounds: int = option(3, "turns of each", at_least=1)

    @property
    def subjects(self) -> Dict[str, Tuple[str, bool]]:
        """The name of each row, with its model, and whether that reads graphs of earlier runs."""
        if not self.graph_cache:
            return {model: (model, False) for model in self.models}
        with_graphs = {f"{model}, cached graph": (model, True) for model in self.models}
        return {self.models[0]: (self.models[0], False), **with_graphs}

    def check(self) -> None:
        if not self.models or not (self.inference or self.train):
            raise InputError("nothing to time: name a model, and choose inference or train.")
        if self.graph_cache and not self.cached:
            raise InputError("graph_cache reads what earlier runs left, but cached is False: choose one of them.")
        if self.other and not (Path(self.other) / "mindcv_models").is_dir():
            raise InputError(f"other is {self.other}, but must be a folder that has this project's mindcv_models.")


def first_call(checkout: Path, model: str, graphs: bool, train: bool, options: FirstCallOptions) -> float:
    """Seconds of the first call in a process of its own.

    Raises:
        InputError: the process failed; with its last line.
    """
    settings = {"model": model, "train": train, "batch_size": options.batch_size,
                "image_size": [options.image_size] * 2, "warmup": 0,
                **({"graph_cache": True} if graphs else {})}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        environment = {"GLOG_v": "3", **os.environ, "PYTHONPATH": str(checkout)}
        if not options.cached:
            environment["MS_COMPILER_CACHE_PATH"] = folder
        child = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(settings)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
    if child.returncode:
        raise InputError(f"{model} in {checkout}: {(child.stderr.strip().splitlines() or ['its process ended'])[-1]}")
    return float(child.stdout.split()[-1])


def timed(train: bool, options: FirstCallOptions) -> Dict[str, Dict[str, list]]:
    """Seconds of every turn by checkout, here and other, and subject."""
    checkouts = {"here": HERE, **({"other": Path(options.other).resolve()} if options.other else {})}
    seconds = {name: {subject: [] for subject in options.subjects} for name in checkouts}
    for turn in range(options.rounds + options.cached):
        for subject, (model, graphs) in options.subjects.items():
            for name, checkout in checkouts.items():
                value = first_call(checkout, model, graphs, train, options)
                if turn >= options.cached:
                    seconds[name][subject].append(value)
    return seconds


def main():
    options = parse(FirstCallOptions, __doc__)
    size = f"{options.image_size} x {options.image_size}"
    kernels = "kernels cached" if options.cached else "nothing cached"
    print(f"first call, {options.batch_size} images of {size}, {kernels}, {options.rounds} turns", flush=True)
    yardsticks = list(options.subjects)[: 1 + options.graph_cache]
    titles = ["model", "what", "s, median (range)", *(f"/ {name}" for name in yardsticks)]
    titles += ["other s", "/ other"] if options.other else []
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for train in [train for train, wanted in ((False, options.inference), (True, options.train)) if wanted]:
        seconds = timed(train, options)
        for subject in options.subjects:
            print("| " + " | ".join(row_of(subject, train, yardsticks, seconds)) + " |", flush=True)


def row_of(subject: str, train: bool, yardsticks: List[str], seconds) -> Tuple[str, ...]:
    """The columns of a row."""
    own = seconds["here"][subject]
    ratios = [f"{np.median(own) / np.median(seconds['here'][name]):.2f}" for name in yardsticks]
    row = (subject, "training" if train else "inference", spread(own), *ratios)
    if "other" not in seconds:
        return row
    theirs = seconds["other"][subject]
    return (*row, spread(theirs), f"{np.median(own) / np.median(theirs):.2f}")


def spread(values) -> str:
    return f"{np.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    run(main)

"""Time models side by side, against the first of them: speed, compile time, memory, parameters and FLOPs.

python benchmark.py
python benchmark.py --models resnet50 'fastvit_*' --batch_size 1 8 --csv speed.csv --plot speed.png
python benchmark.py --models resnet50 fastvit_t8 swin_tiny pvt_v2_b2 convnext_tiny poolformer_s12 --train

Each model runs in a process of its own and takes turns with the first one. Inference is timed on networks in their
reparameterized form, where they have one; --train adds a training step of the training form: forward, backward and
AdamW's update. Latency is the time of one call of a batch, waited for (median and quartiles over the rounds);
throughput is that of calls in a row. Images are noise and stay in memory, so nothing here measures reading data.
"""

import fnmatch
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Tuple

import prologue

if __name__ == "__main__":
    prologue.begin()

import mindcv
from mindcv.models.registry import is_model

from mindcv_models.benchmark import Job, check_plot, header, line, measure, plot, row_of, titles, write_csv
from mindcv_models.errors import InputError, nearest
from mindcv_models.options import MAX_SIDE, AmpLevel, Device, option, parse
from mindcv_models.process import run


@dataclass
class Subjects(AmpLevel):
    """What is timed."""

    title = "What"

    models: Tuple[str, ...] = option(
        ("resnet50", "fastvit_t8", "fastvit_sa24"),
        "names of this project's or MindCV's models, or patterns of them; the first is the yardstick", also=("model",),
    )  # fmt: skip
    batch_size: Tuple[int, ...] = option(
        (8,), "images per batch, one or several; halved where memory does not suffice", at_least=1, example="1 8"
    )
    image_size: Optional[Tuple[int, ...]] = option(
        None, "image size, or height and width; default: each model's own", at_least=1, at_most=MAX_SIDE,
        example="224, or 192 320", also=("image_resize", "img_size", "input_size"),
    )  # fmt: skip
    train: bool = option(False, "time a training step too")
    reparam: bool = option(True, "inference in the reparameterized form")
    pretrained: bool = option(False, "with the published weights, in the folder MINDCV_MODELS_CACHE or downloaded")


@dataclass
class Turns(Device):
    """How it is timed."""

    title = "How"

    rounds: int = option(8, "turns of each model", at_least=1)
    warmup: int = option(2, "calls after the first that are not counted", at_least=0)
    queued: int = option(2, "calls in a row that a turn measures throughput by", at_least=1)


@dataclass
class BenchmarkOptions(Subjects, Turns):
    """The options of ``benchmark.py``."""

    title = "Output"

    csv: Optional[str] = option(None, "write the table there too", path=True)
    plot: Optional[str] = option(
        None, "draw published accuracy over the measured throughput, as .png, .svg or .pdf", path=True
    )

    def check(self) -> None:
        for name in ("models", "batch_size"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: give one or several, such as {getattr(BenchmarkOptions, name)[0]}.")
        if self.image_size is not None and len(self.image_size) not in (1, 2):
            raise InputError(f"image_size is {self.image_size}, but must be one size, or height and width.")
        for name in ("csv", "plot"):
            path = getattr(self, name)
            if path and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
                raise InputError(f"{name} is {path}, but must be a file in a folder that is there.")
        if self.plot:
            check_plot(self.plot, named(self.models))


def named(patterns):
    """The models that names and shell-style patterns stand for, each once, in the order given."""
    models = {}
    for pattern in patterns:
        names = [pattern] if is_model(pattern) else fnmatch.filter(mindcv.list_models(), pattern)
        if not names:
            hint = nearest(pattern, mindcv.list_models(), "mindcv.list_models() lists the names.")
            raise InputError(f"models: no model is called {pattern!r}: {hint}")
        models.update(dict.fromkeys(names))
    return list(models)


def jobs_of(options: BenchmarkOptions):
    """What to time, in groups whose first job is the yardstick: inference and training, each by batch size."""
    size = options.image_size and (options.image_size[0], options.image_size[-1])
    common = Job("", image_size=size, reparam=options.reparam, pretrained=options.pretrained,
                 amp_level=options.amp_level, mode=options.mode, device_target=options.device_target,
                 graph_cache=bool(options.graph_cache), warmup=options.warmup, queued=options.queued)  # fmt: skip
    for train in (False, True) if options.train else (False,):
        for batch_size in options.batch_size:
            yield [replace(common, model=m, train=train, batch_size=batch_size) for m in named(options.models)]


def main():
    options = parse(BenchmarkOptions, __doc__)
    groups = list(jobs_of(options))
    width = max(len(job.model) for job in groups[0])
    rows, speeds = [], {}
    for group in groups:
        for timing in measure(group, options.rounds):
            if not rows:
                print(header(timing), titles(width), sep="\n")
            rows.append(row_of(timing))
            print(line(rows[-1], width), flush=True)
            if options.csv:
                write_csv(rows, options.csv)  # after each row, so that a long run leaves what it has
            if options.plot and not timing.job.train and timing.job.batch_size == max(options.batch_size):
                speeds[timing.job.model] = timing.images_per_second
    if options.plot:
        plot(speeds, options.plot, f"{max(options.batch_size)} images a batch; {header(timing)}")


if __name__ == "__main__":
    run(main)

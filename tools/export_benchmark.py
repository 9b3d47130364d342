"""Compare the files of export.py in ONNX Runtime with PyTorch's exports and with MindSpore.

    python tools/export_benchmark.py
    python tools/export_benchmark.py --models fastvit_t8 litv2_s --batch_sizes 8 --rounds 20

Needs requirements-export.txt and, for the comparison with PyTorch, torch, onnxscript, timm and fastervit. All run in
one process on the same images. In each round each of them pauses, makes a call that wakes its threads, and a timed
call. The table has medians and quartiles over the rounds. Weights are random, models are reparameterized. The last
columns are speed-ups of export.py's file. No package has LITv2 for PyTorch.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Tuple

os.environ.setdefault("GLOG_v", "3")  # read when MindSpore is imported: errors only, not its notes on itself

import mindspore as ms
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindcv_models import backend, create_model, reparameterize
from mindcv_models.errors import InputError
from mindcv_models.export import check_format, to_onnx
from mindcv_models.export.files import write_onnx_file
from mindcv_models.models import config_of
from mindcv_models.options import option, parse
from mindcv_models.process import run

PAUSE = 0.2  # seconds until the threads of the previous runtime sleep; after a call they spin for a while
COLUMNS = ("model", "batch", "ours ms", "PyTorch's ms", "MindSpore ms", "to PyTorch's", "to MindSpore")


@dataclass
class BenchmarkOptions:
    models: Tuple[str, ...] = option(
        ("fastvit_t8", "fastvit_sa24", "faster_vit_0_224", "litv2_s"), "names of models of this project"
    )
    batch_sizes: Tuple[int, ...] = option((1, 8), "batch sizes")
    threads: int = option(2, "threads of ONNX Runtime; MindSpore uses all cores of the process")
    rounds: int = option(15, "number of timed rounds")
    peer: bool = option(True, "compare with PyTorch's export, if a package has the model")
    mindspore: bool = option(True, "compare with the network in MindSpore")


def write_ours(name: str, path: Path, shape) -> None:
    with backend.portable_form():
        network = reparameterize(create_model(name))
        write_onnx_file(to_onnx(network, shape), path, {})


def write_peer(name: str, path: Path, shape) -> None:
    """Export the model of timm or fastervit with ``torch.onnx.export``'s defaults and a dynamic batch size."""
    try:
        import timm
        import torch
        from timm.utils.model import reparameterize_model

        if name.startswith("fastvit"):
            network = reparameterize_model(timm.create_model(name).eval())
        else:
            import fastervit

            network = fastervit.create_model(name).eval()
    except ImportError as error:
        raise InputError(
            f"PyTorch's export needs {error.name}: pip install torch onnxscript timm fastervit, or use --peer False."
        ) from error
    batch = {0: torch.export.Dim("batch")}
    images = (torch.zeros(2, *shape[1:]),)
    torch.onnx.export(network, images, str(path), dynamo=True, dynamic_shapes=(batch,), verbose=False)


def session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: runtime.run(None, {runtime.get_inputs()[0].name: images})[0]


def candidates(name: str, options: BenchmarkOptions, folder: Path, shape) -> Dict[str, Callable]:
    write_ours(name, folder / "ours.onnx", shape)
    found = {"ours": session(folder / "ours.onnx", options.threads)}
    if options.peer and not name.startswith("litv2"):
        write_peer(name, folder / "peer.onnx", shape)
        found["peer"] = session(folder / "peer.onnx", options.threads)
    if options.mindspore:
        network = reparameterize(create_model(name))
        found["mindspore"] = lambda images: network(ms.Tensor(images)).asnumpy()
    return found


def times(found: Dict[str, Callable], images: np.ndarray, rounds: int) -> Dict[str, np.ndarray]:
    """Quartiles of the seconds per call of each candidate."""
    seconds = {key: [] for key in found}
    for call in found.values():
        call(images)
    for _ in range(rounds):
        for key, call in found.items():
            time.sleep(PAUSE)
            call(images)
            start = time.perf_counter()
            call(images)
            seconds[key].append(time.perf_counter() - start)
    return {key: np.percentile(values, [25, 50, 75]) for key, values in seconds.items()}


def row(name: str, batch_size: int, quartiles: Dict[str, np.ndarray]) -> Tuple[str, ...]:
    keys = ("ours", "peer", "mindspore")
    cells = {key: "{1:.1f} ({0:.1f}-{2:.1f})".format(*1e3 * quartiles[key]) for key in quartiles}
    ratios = {key: f"{quartiles[key][1] / quartiles['ours'][1]:.2f}" for key in quartiles}
    return (name, str(batch_size), *(cells.get(key, "") for key in keys), *(ratios.get(key, "") for key in keys[1:]))


def main():
    options = parse(BenchmarkOptions, __doc__)
    check_format(Path("ours.onnx"))
    for name in ("threads", "rounds"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}, but must be at least 1.")
    ms.set_context(mode=ms.GRAPH_MODE)
    rows = [COLUMNS]
    for name in options.models:
        shape = (None, *config_of(name).input_size)
        with tempfile.TemporaryDirectory() as folder:
            found = candidates(name, options, Path(folder), shape)
            for size in options.batch_sizes:
                images = np.random.default_rng(0).standard_normal((size, *shape[1:])).astype(np.float32)
                rows.append(row(name, size, times(found, images, options.rounds)))
    widths = [max(len(line[i]) for line in rows) for i in range(len(COLUMNS))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip(), flush=True)


if __name__ == "__main__":
    run(main)

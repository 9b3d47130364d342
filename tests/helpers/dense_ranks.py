"""Run by tests/test_dense_ranks.py: a few updates of each dense model, on the batches of two ranks.

mpirun -n 2 python -m tests.helpers.dense_ranks FOLDER       (or no launcher at all: one rank that accumulates)

``FOLDER/data`` has scenes of digits. Batches are those that ``train.py`` shows to each of two ranks. One rank that
shows both to the network, and then makes one update of their mean gradient, has to learn the same: losses are divided
by the objects of a device's images, so that it is this, and not one batch of double size, that two ranks do.
"""

import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np

from mindcv_models import process
from mindcv_models.distributed import World, join_world, launch, sum_over_ranks
from mindcv_models.tasks import task_of
from mindcv_models.training import Schedule, build_network, build_step
from tests.helpers import dense_tiny, tiny_detector  # noqa: F401, they register their networks

UPDATES = 4
TINY = {"batch_size": 2, "channels": 8, "num_parallel_workers": 1, "dataset": "digits_scenes", "lr": 0.01,
        "opt": "adamw", "warmup_epochs": 0, "seed": 3, "ema": True, "ema_decay": 0.5, "clip_grad": True,
        "clip_value": 1.0}  # fmt: skip
DETECTOR = {**TINY, "img_scale": (96, 96), "anchor_scale": 2.0, "convs": 1}
MODELS = {
    "retinanet": {**DETECTOR, "backbone": "tiny_features"},
    "mask_rcnn": {**DETECTOR, "backbone": "tiny_pyramid", "regions": 60, "region_samples": 24},
    "semantic_fpn": {**TINY, "backbone": "tiny_maps", "crop_size": (64, 64), "head_channels": 8, "drop_rate": 0.0},
}


def updates(model, data, world):
    """Losses of the updates, this rank's gradients' doing on the weights, and how far ranks are apart."""
    task, ranks = task_of(model), range(2) if world.size == 1 else (world.rank,)
    options = task.train_options(
        model=model, data_dir=str(data), gradient_accumulation_steps=len(ranks), **MODELS[model]
    )  # fmt: skip
    options = task.prepare(options, world)
    ms.set_seed(1)
    network = build_network(options, world)
    loaders = [task.train_loader(options, World(rank, 2)) for rank in ranks]
    step = build_step(options, task.objective(options, network), Schedule(options, len(loaders[0])), world)
    losses = []
    for batches in list(zip(*(loader.epoch(1) for loader in loaders)))[:UPDATES]:
        losses.append(np.mean([step(*map(tensor, batch)).asnumpy() for batch in batches], 0).tolist())
    learnt = {p.name: p.asnumpy() for p in (*step.weights, *step.ema.averages) if "moving_" not in p.name}
    own = np.array([np.abs(value.astype(np.float64)).sum() for value in learnt.values()])
    spread = sum_over_ranks(np.square(own), world) / world.size - np.square(sum_over_ranks(own, world) / world.size)
    return losses, learnt, float(np.abs(spread).max())


def tensor(value):
    return ms.Tensor(value) if isinstance(value, np.ndarray) else value


def main():
    folder = Path(sys.argv[1])
    ms.set_context(mode=ms.GRAPH_MODE)
    world = join_world(distribute=bool(launch().launcher))
    told = {}
    for model in MODELS:
        losses, learnt, spread = updates(model, folder / "data", world)
        told[model] = {"losses": losses, "spread": spread}
        if world.is_main:
            np.savez(folder / f"{model}-{world.size}.npz", **learnt)
    if world.is_main:
        (folder / f"told-{world.size}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    process.run(main)

"""Run by tests/test_distributed.py: ten data-parallel steps of a network without batch normalisation, in each mode.

mpirun -n 2 python -m tests.helpers.ranks OUTPUT.json MODE...        (or msrun, or no launcher at all)
"""

import json
import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.api import _cell_graph_executor
from mindspore.train.mind_ir_pb2 import ModelProto

from mindcv_models import process
from mindcv_models.classification.objective import ClassificationObjective
from mindcv_models.distributed import average_parameters, broadcast_parameters, join_world, launch, sum_over_ranks
from mindcv_models.training import TrainStep

IMAGES, STEPS = 32, 10


def small_network():
    return nn.SequentialCell(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Dense(16 * 4 * 4, 10),
    )  # fmt: skip


def checksum(network):
    """A number that two different sets of weights do not share."""
    return float(sum(np.abs(p.asnumpy().astype(np.float64)).sum() for p in network.get_parameters()))


def messages(step):
    """How many messages the compiled step sends, and how often it shares memory; None eagerly."""
    if ms.get_context("mode") == ms.PYNATIVE_MODE:
        return None
    (key,), model = step.compile_cache, ModelProto()
    model.ParseFromString(_cell_graph_executor._get_func_graph_proto(step, key, "mind_ir"))
    nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
    used = [node.op_type.removeprefix("REF::") for node in nodes]
    by_message = {p.name for p in model.primitives if p.op_type == "AllReduce"}
    by_memory = {p.name for p in model.primitives if any(b"mean_over_ranks" in a.s for a in p.attribute)}
    return [sum(name in names for name in used) for names in (by_message, by_memory)]


def ten_steps(world):
    """What ten steps gave, on rank 0; None on the others."""
    ms.set_seed(1 + world.rank)
    network = small_network()
    own = checksum(network)
    broadcast_parameters(network.get_parameters(), world)
    sums = [checksum(network)]
    step = TrainStep(
        ClassificationObjective(network, nn.CrossEntropyLoss()),
        nn.Momentum(network.trainable_params(), learning_rate=0.05, momentum=0.9),
        clip_norm=1.0,
        world=world,
    )
    rng = np.random.RandomState(0)
    losses = []
    for _ in range(STEPS):
        images = rng.randn(IMAGES, 3, 16, 16).astype(np.float32)[world.rank :: world.size]
        labels = rng.randint(0, 10, IMAGES).astype(np.int32)[world.rank :: world.size]
        losses.append(float(step(Tensor(images), Tensor(labels))))
    sums.append(checksum(network))
    spread = [float(value) for value in sum_over_ranks(np.square(sums), world) / world.size - np.square(sums)]
    count = sum_over_ranks([100_000_001 + world.rank], world)
    mine = ms.Parameter(Tensor([1.0 + world.rank, -3.0]))
    average_parameters([mine], world)
    if not world.is_main:
        return None
    return {"losses": losses, "own": own, "sums": sums, "spread": spread, "size": world.size,
            "messages": messages(step), "count": float(count[0]), "mean": mine.asnumpy().tolist()}  # fmt: skip


def in_modes(modes, world):
    """What ten steps gave in each mode."""
    results = {}
    for mode in modes:
        ms.set_context(mode=int(mode))
        results[mode] = ten_steps(world)
    return results


def main():
    output, *modes = sys.argv[1:]
    ms.set_context(mode=int(modes[0]))
    world = join_world(distribute=bool(launch().launcher))
    results = in_modes(modes, world)
    if world.is_main:
        with open(output, "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    process.run(main)

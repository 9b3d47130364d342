"""What the benchmarks of detectors and segmenters share: joints, data against a plain loop, and first calls."""

import logging
import time
from dataclasses import dataclass
from typing import Callable, Dict, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindcv_models import create_model
from mindcv_models.models.family import IMAGENET
from mindcv_models.options import Group, option
from tools.turns import Part, medians

__all__ = ["MEAN", "STD", "Frame", "compare_data", "compare_first_calls", "measure_joints"]

logger = logging.getLogger("benchmark")

MEAN, STD = (tuple(255 * value for value in IMAGENET[name]) for name in ("mean", "std"))


@dataclass
class Frame(Group):
    """What is measured."""

    title = "Benchmark"

    backbone: str = option("fastvit_t8", "the backbone")
    size: Tuple[int, ...] = option((320, 320), "joints: height and width of the image", at_least=64)
    rounds: int = option(7, "rounds, each with all that are compared, after one that does not count", at_least=1)


def measure_joints(options: Frame, model: str, head: str) -> None:
    """Log the time of a forward pass, and of backbone, neck and ``head`` as graphs of their own, in turns."""
    network = create_model(model, backbone=options.backbone).set_train(False)
    images = Tensor(np.random.default_rng(0).standard_normal((1, 3, *options.size), np.float32))
    parts = [Part(cell).set_train(False) for cell in (network.backbone, network.neck, getattr(network, head))]
    inputs = [(images,)]
    for part in parts[:2]:
        inputs.append(part(*inputs[-1]))

    def apart():
        for part, given in zip(parts, inputs):
            first_of(part(*given)).asnumpy()

    found = medians(options.rounds, whole=lambda: first_of(network(images)).asnumpy(), apart=apart)
    logger.info(
        "joints, %s at %d x %d: %.1f ms, its parts alone %.1f ms, ratio %.3f", options.backbone, *options.size,
        1e3 * found["whole"], 1e3 * found["apart"], found["whole"] / found["apart"],
    )  # fmt: skip


def first_of(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def compare_data(options: Frame, count: int, ours: Callable[[int], object], plain: Callable[[int], object]) -> None:
    """Log how many of ``count`` images a second two ways prepare, each given an image's number."""
    found = medians(
        options.rounds,
        ours=lambda: [ours(k) for k in range(count)],
        plain=lambda: [plain(k) for k in range(count)],
    )
    rates = [count / found[name] for name in ("ours", "plain")]
    logger.info("data: %.1f images/s a core, a plain loop %.1f, ratio %.2f", *rates, rates[0] / rates[1])


class Step(nn.Cell):
    """A loss and its gradients by all parameters of a network, as one graph."""

    def __init__(self, loss, network):
        super().__init__(auto_prefix=False)
        self.gradient = ms.value_and_grad(loss, None, list(network.trainable_params()))

    def construct(self, *batch):
        return self.gradient(*batch)


def compare_first_calls(options: Frame, side: int, **steps: Tuple[Callable, nn.Cell, Tuple[Tensor, ...]]) -> None:
    """Log the seconds of the first call of a training step of two networks, and the first's over the second's.

    Args:
        side: of the images.
        **steps: a loss, the network in it, and a batch.
    """
    seconds: Dict[str, float] = {}
    for name, (loss, network, batch) in steps.items():
        network.set_train()
        begin = time.perf_counter()
        Step(loss, network)(*batch)[0].asnumpy()
        seconds[name] = time.perf_counter() - begin
    (first, a), (second, b) = seconds.items()
    logger.info(
        "first call of a training step at %d x %d, %s: %s %.1f s, %s %.1f s, ratio %.2f", side, side, options.backbone,
        first, a, second, b, a / b,
    )  # fmt: skip

"""Verification of an exported file: it has to give the outputs of its network."""

from pathlib import Path
from typing import Callable, Iterator, List, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image

from ..errors import RunError
from .preparation import Preparation

__all__ = ["OutputsDifferError", "agreement", "batches", "example_images", "reload", "run_network"]

# Allowed difference: absolute, or relative to the output's largest value, whichever is larger.
ABSOLUTE, RELATIVE = 1e-4, 1e-5


class OutputsDifferError(RunError):
    """The outputs of an exported file differ from those of its network."""


def example_images(preparation: Preparation, channels: int) -> np.ndarray:
    """Two preprocessed photographs and two images of noise: ``(4, channels, H, W)``."""
    from sklearn.datasets import load_sample_images

    height, width = preparation.image_size
    resized = [Image.fromarray(image).resize((width, height), Image.BICUBIC) for image in load_sample_images().images]
    photographs = np.stack(resized).transpose(0, 3, 1, 2)[:, np.arange(channels) % 3]
    mean, std = (np.resize(value, (channels, 1, 1)) for value in (preparation.mean, preparation.std))
    photographs = (photographs - mean) / std
    noise = np.random.default_rng(0).standard_normal((2, channels, height, width))
    return np.concatenate([photographs, noise]).astype(np.float32)


def run_network(network: nn.Cell, images: np.ndarray) -> List[np.ndarray]:
    """The outputs of a network, computed two images at a time."""
    network.set_train(False)
    results = [list(_arrays(network(Tensor(images[i : i + 2])))) for i in range(0, len(images), 2)]
    return [np.concatenate(parts) for parts in zip(*results)]


def _arrays(result) -> Iterator[np.ndarray]:
    """The tensors of a network's result, which may be nested tuples, in order."""
    if isinstance(result, Tensor):
        yield result.asnumpy()
        return
    for item in result:
        yield from _arrays(item)


def reload(path: Path) -> Callable[[np.ndarray], List[np.ndarray]]:
    """From images to outputs by an exported file: ONNX Runtime runs ``.onnx``, MindSpore ``.mindir``."""
    if path.suffix == ".mindir":
        cell = nn.GraphCell(ms.load(str(path)))
        return lambda images: list(_arrays(cell(Tensor(images))))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})


def agreement(path: Path, images: np.ndarray, outputs: List[np.ndarray], batch_size: Optional[int]) -> float:
    """Run a file on ``images``, in batches of ``batch_size``, or of 1, 2 and 3 if that is None.

    Returns:
        The largest difference from ``outputs``.

    Raises:
        OutputsDifferError: the difference is too large.
    """
    run = reload(path)
    differences = np.array([
        [np.abs(result - output[index]).max() for result, output in zip(run(images[index]), outputs, strict=True)]
        for index in batches(len(images), batch_size)
    ]).max(0)  # fmt: skip
    for largest, output in zip(differences, outputs):
        allowed = max(ABSOLUTE, RELATIVE * float(np.abs(output).max()))
        if not largest <= allowed:  # true for NaN
            raise OutputsDifferError(
                f"the exported file's outputs differ from the network's by {largest:.2g}, more than {allowed:.2g}: no "
                "file was kept; report the model and the versions of mindspore, onnx and onnxruntime."
            )
    return float(differences.max())


def batches(count: int, batch_size: Optional[int]) -> Iterator[List[int]]:
    """The images of each trial of a file: ``batch_size`` at once, or 1, 2 and 3 if that is None."""
    if batch_size is None:
        yield from ([0], [1, 2], [1, 2, 3])
        return
    for start in range(0, count, batch_size):
        yield [(start + i) % count for i in range(batch_size)]

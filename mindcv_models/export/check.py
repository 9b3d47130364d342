"""Verification of an exported file: it has to give the logits of its network."""

from pathlib import Path
from typing import Callable, Iterator, List, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image

from ..errors import InputError, RunError
from .preparation import Preparation

__all__ = ["LogitsDifferError", "agreement", "example_images", "reload", "run_network"]

ABSOLUTE, RELATIVE = 1e-4, 1e-5  # allowed difference: absolute, or relative to the largest logit, whichever is larger


class LogitsDifferError(RunError):
    """The logits of an exported file differ from those of its network."""


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


def run_network(network: nn.Cell, images: np.ndarray) -> np.ndarray:
    """The logits of a network, two images at a time.

    Raises:
        InputError: the network returns feature maps.
    """
    network.set_train(False)
    results = [network(Tensor(images[i : i + 2])) for i in range(0, len(images), 2)]
    if not all(isinstance(result, Tensor) and result.ndim == 2 for result in results):
        raise InputError(
            "the network returns feature maps, but only classifiers can be exported: leave features_only out."
        )
    return np.concatenate([result.asnumpy() for result in results])


def reload(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function of images that runs an exported file: ONNX Runtime for ``.onnx``, MindSpore for ``.mindir``."""
    if path.suffix == ".mindir":
        cell = nn.GraphCell(ms.load(str(path)))
        return lambda images: cell(Tensor(images)).asnumpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def agreement(path: Path, images: np.ndarray, logits: np.ndarray, batch_size: Optional[int]) -> float:
    """Run a file on ``images``, in batches of ``batch_size``, or of 1, 2 and 3 if that is None.

    Returns:
        The largest difference from ``logits``.

    Raises:
        LogitsDifferError: the difference is too large.
    """
    run = reload(path)
    differences = [np.abs(run(images[index]) - logits[index]).max() for index in _batches(len(images), batch_size)]
    largest, allowed = float(np.max(differences)), max(ABSOLUTE, RELATIVE * float(np.abs(logits).max()))
    if not largest <= allowed:  # true for NaN
        raise LogitsDifferError(
            f"the exported file's logits differ from the network's by {largest:.2g}, more than "
            f"{allowed:.2g}: no file was kept; report the model and the versions of mindspore, onnx and onnxruntime."
        )
    return largest


def _batches(count: int, batch_size: Optional[int]) -> Iterator[List[int]]:
    if batch_size is None:
        yield from ([0], [1, 2], [1, 2, 3])
        return
    for start in range(0, count, batch_size):
        yield [(start + i) % count for i in range(batch_size)]

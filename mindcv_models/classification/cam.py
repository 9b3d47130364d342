"""Class-activation maps: which parts of an image speak for a class."""

from pathlib import Path
from typing import List, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn
from PIL import Image

from ..errors import InputError
from ..evaluation import new_figure, save_figure
from .predict import image_batches
from .transforms import EvalTransform
from .validator import pad_rows

__all__ = ["ClassActivation", "draw_activation", "draw_activations"]


class ClassActivation(nn.Cell):
    """Images ``(B, 3, H, W)`` to logits ``(B, classes)``, and those of every place of the last map,
    ``(B, classes, h, w)``.

    The network ends in a mean over places and a linear layer, so the head can be applied to each place by itself, and
    the mean of what it gives there is the network's logit: the map shows exactly how a logit comes about. Source: Zhou
    et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2; here with the bias.

    Args:
        network: with ``forward_features``, ``(B, 3, H, W)`` to ``(B, C, h, w)``, and ``forward_head``, which takes
            that to logits; as the models here and MindCV's have them.

    Raises:
        InputError: the network has no such parts.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
            raise InputError("cam: this model has no forward_features and forward_head; choose another model.")
        self.network = network

    def construct(self, images):
        features = self.network.forward_features(images)
        batch, channels, height, width = features.shape
        places = features.transpose(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B * h * w, C, 1, 1)
        logits = self.network.forward_head(places).astype(ms.float32)  # (B * h * w, classes)
        maps = logits.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
        return self.network.forward_head(features).astype(ms.float32), maps


def draw_activations(network: nn.Cell, paths: Sequence[str], shares: np.ndarray, names: List[str],
                     transform: EvalTransform, batch_size: int, folder: Path) -> List[Path]:  # fmt: skip
    """Draw the map of each image's first guess over what the network saw of it, one PNG an image.

    Args:
        shares: the probabilities that say the first guess, ``(len(paths), classes)``.

    Raises:
        InputError: the network does not end in a mean over places and a linear layer.
    """
    activation = ClassActivation(network).set_train(False)
    drawn = []
    for images, numbers in image_batches(paths, range(len(paths)), transform, batch_size, upright=True):
        logits, maps = (output.asnumpy() for output in activation(pad_rows(images, batch_size)))
        if np.abs(maps.mean((2, 3)) - logits).max() > 1e-2 * max(np.abs(logits).max(), 1):
            raise InputError("cam: this model's logits are not the mean over places; choose another model.")
        for image, own, number in zip(images.asnumpy(), maps, numbers):
            guess = int(shares[number].argmax())
            path = folder / f"{number + 1:04d}_{Path(paths[number]).stem}.png"
            title = f"{names[guess]}  {100 * shares[number, guess]:.1f} %"
            draw_activation(_picture(image, transform), own[guess], title, path)
            drawn.append(path)
    return drawn


def draw_activation(picture: np.ndarray, activation: np.ndarray, title: str, path: Path) -> None:
    """Write a picture ``(H, W, 3)`` uint8, and beside it the same in grey under a map ``(h, w)``, positive parts in
    colour."""
    positive = np.maximum(activation, 0).astype(np.float32)
    largest = positive.max() or 1
    size = picture.shape[1], picture.shape[0]
    heat = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BICUBIC)).clip(0, largest)
    figure = new_figure(9, 4.3)
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    right.imshow(Image.fromarray(picture).convert("L"), cmap="gray", vmin=0, vmax=255)
    colours = right.imshow(heat, cmap="plasma", vmin=0, vmax=largest, alpha=0.65 * np.minimum(1, 2 * heat / largest))
    figure.colorbar(colours, ax=right, label="the class's logit at each place", shrink=0.9)
    for axes in (left, right):
        axes.set_axis_off()
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def _picture(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """The network's input ``(3, H, W)`` as pixels again."""
    mean, std = (np.float32(values)[:, None, None] for values in (transform.mean, transform.std))
    return (image * std + mean).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

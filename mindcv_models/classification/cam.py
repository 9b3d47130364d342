"""Class-activation maps: the parts of an image that contribute to a class."""

from pathlib import Path
from typing import List, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image

from ..errors import InputError
from ..evaluation import new_figure, save_figure
from .predict import image_loader
from .transforms import EvalTransform

__all__ = ["ClassActivation", "draw_activation", "draw_activations"]


class ClassActivation(nn.Cell):
    """From images ``(B, 3, H, W)`` to logits ``(B, classes)``, and to the logits at each position of the last feature
    map, ``(B, classes, h, w)``.

    The network has to end in a mean over positions and a linear layer. The head can then be applied to each position
    alone, and the mean of the results is the network's logit: the map shows how each position contributes to it.
    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2; here with bias.

    Args:
        network: has ``forward_features``, from ``(B, 3, H, W)`` to ``(B, C, h, w)``, and ``forward_head``, from there
            to logits, like the models of this project and of MindCV.

    Raises:
        InputError: the network lacks one of the two methods.
    """

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
            raise InputError("cam: this model has no forward_features and forward_head; choose another model.")
        self.network = network

    def construct(self, images):
        features = self.network.forward_features(images)
        batch, channels, height, width = features.shape
        positions = features.transpose(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B * h * w, C, 1, 1)
        logits = self.network.forward_head(positions).astype(ms.float32)  # (B * h * w, classes)
        maps = logits.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
        return self.network.forward_head(features).astype(ms.float32), maps


def draw_activations(network: nn.Cell, paths: Sequence[str], probabilities: np.ndarray, names: List[str],
                     transform: EvalTransform, batch_size: int, folder: Path,
                     upright: bool = True) -> List[Path]:  # fmt: skip
    """Plot the map of each image's predicted class over the preprocessed image, one PNG per image.

    Args:
        probabilities: ``(len(paths), classes)``; the most probable class is the predicted one.
        upright: turn images as their EXIF orientation says.

    Raises:
        InputError: the network does not end in a mean over positions and a linear layer.
    """
    activation = ClassActivation(network).set_train(False)
    drawn = []
    for images, numbers, _, valid in image_loader(paths, transform, batch_size, upright=upright).epoch():
        logits, maps = (output.asnumpy() for output in activation(Tensor(images)))
        if np.abs(maps.mean((2, 3)) - logits).max() > 1e-2 * max(np.abs(logits).max(), 1):
            raise InputError("cam: this model's logits are not the mean over positions; choose another model.")
        for image, maps_of_image, number in zip(images[valid], maps, numbers):
            predicted = int(probabilities[number].argmax())
            path = folder / f"{number + 1:04d}_{Path(paths[number]).stem}.png"
            title = f"{names[predicted]}  {100 * probabilities[number, predicted]:.1f} %"
            draw_activation(_picture(image, transform), maps_of_image[predicted], title, path)
            drawn.append(path)
    return drawn


def draw_activation(picture: np.ndarray, activation: np.ndarray, title: str, path: Path) -> None:
    """Plot an image ``(H, W, 3)`` uint8, and the image in grey under the positive parts of a map ``(h, w)``."""
    positive = np.maximum(activation, 0).astype(np.float32)
    largest = positive.max() or 1
    size = picture.shape[1], picture.shape[0]
    heat = np.asarray(Image.fromarray(positive).resize(size, Image.Resampling.BICUBIC)).clip(0, largest)
    figure = new_figure(9, 4.3)
    left, right = figure.subplots(1, 2)
    left.imshow(picture)
    right.imshow(Image.fromarray(picture).convert("L"), cmap="gray", vmin=0, vmax=255)
    colours = right.imshow(heat, cmap="plasma", vmin=0, vmax=largest, alpha=0.65 * np.minimum(1, 2 * heat / largest))
    figure.colorbar(colours, ax=right, label="logit of the class at each position", shrink=0.9)
    for axes in (left, right):
        axes.set_axis_off()
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def _picture(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """The network's input ``(3, H, W)`` as pixels ``(H, W, 3)`` uint8."""
    mean, std = (np.float32(values)[:, None, None] for values in (transform.mean, transform.std))
    return (image * std + mean).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

"""From an image file to the network's input."""

import math
from dataclasses import dataclass
from typing import Union

import cv2
import numpy as np
from mindcv.data import create_transforms

from ..data.crop import CENTRE, CropTransform, View
from ..data.images import Picture
from ..errors import InputError
from ..models.registry import config_of
from ..options import MAX_SIDE
from .augment import FILTERS, ColorJitter, create_augment
from .options import Preparation, TrainOptions, ValidateOptions

__all__ = ["CENTRE", "EvalTransform", "SmallImageTransform", "TrainTransform", "View"]


@dataclass(frozen=True)
class EvalTransform(CropTransform):
    """The transform of a model's validation and prediction."""

    @classmethod
    def resolve(cls, options: Preparation) -> "EvalTransform":
        """The model's own transform, with what the options override.

        Raises:
            InputError: ``crop_pct`` is so small that images would be resized beyond what memory holds.
        """
        own = config_of(options.model)
        size = options.image_resize or own.input_size[1:]
        names = ("crop_pct", "crop_mode", "interpolation")
        transform = cls(
            size[0] if isinstance(size, tuple) and len(set(size)) == 1 else size,
            *(getattr(own if getattr(options, name) is None else options, name) for name in names),
            *options.mean_and_std,
        )
        side, share = max(transform.size), transform.crop_pct
        if side > 2 * MAX_SIDE * share:
            raise InputError(
                f"crop_pct is {share:g}, so that images would be resized to {side / share:.0f} pixels before they are "
                f"cropped to {side}, but {2 * MAX_SIDE} is the most: use a larger one."
            )
        return transform


class TrainTransform:
    """Random crop, flips, augmentation, normalisation and erasing: ``(H, W, 3)`` uint8 to ``(3, h, w)`` float32."""

    def __init__(self, options: TrainOptions):
        own = EvalTransform.resolve(options)
        self.crop = RandomResizedCrop(own.size, options.scale, options.ratio, own.interpolation)
        self.hflip = options.hflip
        self.vflip = options.vflip
        self.augment = []
        policy = options.auto_augment
        # ThreeAugment is used with colour jitter, the other policies change colours themselves.
        if options.color_jitter and (policy is None or policy == "3a"):
            self.augment.append(ColorJitter(options.color_jitter))
        if policy is not None:
            self.augment.append(create_augment(policy, own.mean, own.interpolation))
        self.factor = np.float32([1 / s for s in own.std]).reshape(-1, 1, 1)
        self.shift = np.float32([m / s for m, s in zip(own.mean, own.std)]).reshape(-1, 1, 1)
        self.erase = RandomErasing(
            options.re_prob, options.re_scale, options.re_ratio, options.re_value, options.re_max_attempts
        )

    def __call__(self, image: Union[np.ndarray, Picture], rng: np.random.Generator) -> np.ndarray:
        image = self.crop(image, rng)
        if rng.random() < self.hflip:
            image = cv2.flip(image, 1)
        if rng.random() < self.vflip:
            image = cv2.flip(image, 0)
        for augment in self.augment:
            image = augment(image, rng)
        return self.erase(scaled(image, self.factor, self.shift), rng)


def scaled(image: np.ndarray, factor: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 to ``(3, H, W)`` float32, times ``factor``, less ``shift``, each ``(3, 1, 1)``."""
    array = np.empty((3, *image.shape[:2]), np.float32)
    np.multiply(image.transpose(2, 0, 1), factor, out=array)
    array -= shift
    return array


class RandomResizedCrop:
    """A crop of drawn area and aspect ratio, resized to ``size``, a height and a width (arXiv:1409.4842, section 6).

    A crop that shrinks by more than a seventh is averaged over areas, whatever the filter (but for "nearest"): OpenCV's
    filters alias where Pillow's, which the authors of the models trained with, do not. From photographs shrunk by 1.5,
    Pillow's bicubic differs by 0.9 of 255 levels then, and by 2.7 otherwise.
    """

    def __init__(self, size, scale, ratio, interpolation):
        self.size = size
        self.scale = scale
        self.log_ratio = np.log(ratio)
        self.filter = FILTERS[interpolation]

    def __call__(self, image, rng):
        """``image``: ``(H, W, 3)`` uint8, or a file, of which no more detail is decoded than the crop needs."""
        is_file = isinstance(image, Picture)
        whole = image.size if is_file else image.shape[:2]
        top, left, height, width = self.box(*whole, rng)
        if is_file:
            image = image.pixels(self.reduction(height, width))
        by = -(-whole[0] // image.shape[0])
        crop = image[top // by : -(-(top + height) // by), left // by : -(-(left + width) // by)]
        pixels = crop.shape[0] * crop.shape[1]
        shrinks = pixels > (8 / 7) ** 2 * self.size[0] * self.size[1] and self.filter != cv2.INTER_NEAREST
        return cv2.resize(crop, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else self.filter)

    def reduction(self, height, width):
        """The factor by which a JPEG file may be shrunk that leaves a crop of this size no smaller than the result.

        Photographs of 500 x 375 that are shrunk so while they are decoded, for crops to 64, differ by 2.2 of 255 levels
        from what Pillow's bicubic makes of the same area, and whole ones by 1.6.
        """
        if self.filter == cv2.INTER_NEAREST:
            return 1
        return next((n for n in (8, 4, 2) if min(height / self.size[0], width / self.size[1]) >= n), 1)

    def box(self, height, width, rng):
        """Top, left, height and width; the largest central crop of an allowed ratio if ten draws do not fit."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*self.log_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        low, high = np.exp(self.log_ratio)
        w = min(width, round(height * high))
        h = min(height, round(width / low))
        return (height - h) // 2, (width - w) // 2, h, w


class RandomErasing:
    """Fills a rectangle of a normalised ``(C, H, W)`` image, in place (Zhong et al., arXiv:1708.04896).

    Args:
        value: a number, one for each channel, or "random" for a standard normal number for every pixel and channel.
    """

    def __init__(self, probability, scale, ratio, value, attempts):
        self.probability = probability
        self.scale = scale
        self.log_ratio = np.log(ratio)
        self.value = value if value == "random" else np.float32(value).reshape(-1, 1, 1)
        self.attempts = attempts

    def __call__(self, array, rng):
        if rng.random() >= self.probability:
            return array
        _, height, width = array.shape
        for _ in range(self.attempts):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*self.log_ratio))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                fill(array[:, top : top + h, left : left + w], self.value, rng)
                break
        return array


def fill(box: np.ndarray, value: Union[str, np.ndarray], rng: np.random.Generator) -> None:
    """Set ``box`` ``(C, h, w)`` to ``value``, or to standard normal numbers if that is a word."""
    box[:] = rng.standard_normal(box.shape, np.float32) if isinstance(value, str) else value


class SmallImageTransform:
    """MindCV's transform of its standard data sets; for training, CIFAR's images are moved and flipped at random."""

    def __init__(self, options: Union[TrainOptions, ValidateOptions], training: bool = True):
        name = options.dataset.lower()
        self.moves = training and name.startswith("cifar")
        size = EvalTransform.resolve(options).image_resize
        self.operations = create_transforms(name, image_resize=size, is_training=False)

    def __call__(self, image, rng=None):
        if self.moves:
            top, left = rng.integers(9, size=2)
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            image = padded[top : top + image.shape[0], left : left + image.shape[1]]
            if rng.random() < 0.5:
                image = image[:, ::-1]
        image = np.ascontiguousarray(image)
        for operation in self.operations:
            image = operation(image)
        return image

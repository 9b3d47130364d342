"""From an image to a classifier's input for evaluation: resized, cropped, normalised."""

import math
from dataclasses import dataclass
from typing import Tuple, Union

import cv2
import numpy as np
from PIL import Image

from .images import Picture, check_size

__all__ = ["CENTRE", "CropTransform", "View"]

_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


@dataclass(frozen=True)
class View:
    """One look at an image: where it is cropped, ``"centre"`` or (bottom, right) with 0 or 1 each, and mirrored."""

    crop: Tuple[int, int] = ()
    mirrored: bool = False


CENTRE = View()


@dataclass(frozen=True)
class CropTransform:
    """How an image becomes the network's input for evaluation; ``mean`` and ``std`` on the scale 0 to 255.

    Resized by Pillow, as for the published accuracies: MindSpore's resizing, which MindCV uses, does not filter what
    aliases. ``image_resize`` is one number for a square, or height and width. ``crop_mode`` ``"center"`` keeps the
    aspect ratio and crops the middle; ``"squash"`` gives up the ratio first, as do all sizes that are not square.
    """

    image_resize: Union[int, Tuple[int, int]]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the network's input."""
        return self.image_resize if isinstance(self.image_resize, tuple) else (self.image_resize,) * 2

    def resized(self, height: int, width: int) -> Tuple[int, int]:
        """Height and width that an image of this height and width is resized to before it is cropped."""
        frame = tuple(math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash" or frame[0] != frame[1]:
            return frame
        short = frame[0]
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def __call__(self, image: Union[np.ndarray, Picture], view: View = CENTRE) -> np.ndarray:
        """An image ``(H, W, 3)`` uint8, or a file, as the network's input ``(3, h, w)`` float32.

        Raises:
            UnreadableImageError: the file cannot be decoded, or is so long and thin that it would be resized to more
                than :data:`~.images.MAX_PIXELS`.
        """
        if isinstance(image, Picture):
            check_size(image.path, *self.resized(*image.size), resized=True)
            image = image.pixels()
        image = self.resize(image)
        image = self.corner(image, *view.crop) if view.crop else self.crop(image)
        return self.normalise(cv2.flip(image, 1) if view.mirrored else image)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """An image ``(H, W, 3)`` uint8, at :meth:`resized`."""
        size = self.resized(*image.shape[:2])
        return np.asarray(Image.fromarray(image).resize(size[::-1], _PILLOW_FILTERS[self.interpolation]))

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The middle of a resized image, :attr:`size`."""
        top, left = (round((have - want) / 2) for have, want in zip(image.shape, self.size))
        return image[top : top + self.size[0], left : left + self.size[1]]

    def corner(self, image: np.ndarray, bottom: int, right: int) -> np.ndarray:
        """A corner of a resized image, :attr:`size`; each argument is 0 or 1."""
        top, left = bottom * (image.shape[0] - self.size[0]), right * (image.shape[1] - self.size[1])
        return image[top : top + self.size[0], left : left + self.size[1]]

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """From ``(h, w, 3)`` uint8 to ``(3, h, w)`` float32: less the mean, by the deviation."""
        mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        array = np.empty((3, *image.shape[:2]), np.float32)
        np.subtract(image.transpose(2, 0, 1), mean, out=array)
        array /= std
        return array

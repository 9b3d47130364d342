"""RandAugment, AutoAugment, TrivialAugment, AugMix and ThreeAugment on ``(H, W, 3)`` uint8 images.

The strings and the policies are MindCV's. Its operations (0.3.0) are not used: their random generators are shared by
all threads, so runs would not be repeatable; its shears have no effect, its posterize drops the number of bits that it
should keep, and ``mstd`` is ignored.

Sources: Cubuk et al., arXiv:1805.09501 and arXiv:1909.13719; Müller and Hutter, arXiv:2103.10158; Hendrycks et al.,
arXiv:1912.02781; Touvron et al., arXiv:2204.07118, section 3.2. The effect of "Increasing" operations grows
with the magnitude.
"""

import re
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mindcv.data.auto_augment import auto_augment_policy, rand_augment_transform

from ..errors import InputError, shown

__all__ = ["ColorJitter", "create_augment"]

FILTERS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# Parameters allowed in each policy's string, such as randaug-m9-mstd0.5-inc1.
_SECTIONS = {
    "randaug": ("m", "n", "w", "mstd", "mmax", "inc"),
    "autoaug": ("mstd",),
    "autoaugr": ("mstd",),
    "3a": (),
    "trivialaugwide": ("m",),
    "augmix": ("m", "w", "d", "a"),
}


def create_augment(text: str, fill: Sequence[float], interpolation: str) -> Augment:
    """The augmentation that a string such as ``randaug-m9-mstd0.5-inc1`` names.

    Args:
        fill: colour outside the image, on the scale 0 to 255.
        interpolation: filter of rotations, shears and translations.

    Raises:
        InputError: an unknown policy, or a parameter that the policy does not have.
    """
    policy, numbers = _parse(text)
    surface = _Surface(tuple(min(255, round(level)) for level in fill), FILTERS[interpolation])
    if policy == "randaug":
        return _rand_augment(numbers, surface)
    if policy == "trivialaugwide":
        largest = numbers.get("m", 31)
        return _Choice([[_Operation(name, 1.0, largest, np.inf, 31, surface, wide=True)] for name in _NAMES])
    if policy == "augmix":
        operations = [_Operation(name, 1.0, numbers.get("m", 3), np.inf, 10, surface) for name in _AUGMIX_NAMES]
        return _AugMix(operations, int(numbers.get("w", 3)), int(numbers.get("d", -1)), numbers.get("a", 1.0))
    spread = 0.0 if policy == "3a" else numbers.get("mstd", 0.5)
    return _Choice(
        [
            [_Operation(each.name, each.prob, each.magnitude, spread, 10, surface) for each in chain]
            for chain in auto_augment_policy(policy)
        ]
    )


def _parse(text: str):
    policy, *sections = text.split("-")
    allowed = _SECTIONS.get(policy)
    found = [re.fullmatch(r"([a-z]+)(\d+\.?\d*)", section) for section in sections]
    if allowed is None or not all(match and match[1] in allowed and float(match[2]) <= 1000 for match in found):
        raise InputError(
            f"auto_augment is {shown(text)}, but must be one of {', '.join(_SECTIONS)}, with parameters such as "
            "randaug-m9-mstd0.5-inc1, trivialaugwide-m31 or augmix-m3-w3."
        )
    return policy, {match[1]: float(match[2]) for match in found}


def _rand_augment(numbers, surface):
    rising = bool(numbers.get("inc", 0))
    largest = numbers.get("mmax", 10)
    spread = numbers.get("mstd", 0.5)
    spread = np.inf if spread > 100 else spread
    operations = [
        _Operation(_rising(name) if rising else name, 0.5, numbers.get("m", 10), spread, largest, surface)
        for name in _NAMES
    ]
    weights = rand_augment_transform("randaug-w0", {}).choice_weights if "w" in numbers else None
    return _RandAugment(operations, int(numbers.get("n", 2)), weights)


@dataclass(frozen=True)
class _Surface:
    fill: Tuple[int, ...]
    filter: int


@dataclass(frozen=True)
class _Operation:
    """One operation, applied with a probability.

    The magnitude is drawn from a normal distribution with standard deviation ``spread``, or uniformly from 0 to
    ``magnitude`` if ``spread`` is infinite, and clipped to ``largest``.
    """

    name: str
    probability: float
    magnitude: float
    spread: float
    largest: float
    surface: _Surface
    wide: bool = False

    def __call__(self, image, rng):
        if rng.random() >= self.probability:
            return image
        uniform = np.isinf(self.spread)
        magnitude = rng.uniform(0, self.magnitude) if uniform else rng.normal(self.magnitude, self.spread)
        level = min(max(magnitude, 0.0), self.largest) / (31 if self.wide else 10)
        sign = 1 if rng.random() < 0.5 else -1
        argument = (_WIDE_ARGUMENTS if self.wide else _ARGUMENTS).get(self.name, _ARGUMENTS[self.name])
        if self.name == "GaussianBlurRand":
            return gaussian_blur(image, rng.uniform(0.1, 2.0 * level), self.surface)
        return _FUNCTIONS[self.name.removesuffix("Increasing")](image, argument(level, sign), self.surface)


@dataclass(frozen=True)
class _RandAugment:
    operations: List[_Operation]
    layers: int
    weights: Optional[np.ndarray]

    def __call__(self, image, rng):
        # Without weights an operation may be drawn twice.
        chosen = rng.choice(len(self.operations), self.layers, replace=self.weights is None, p=self.weights)
        for index in chosen:
            image = self.operations[index](image, rng)
        return image


@dataclass(frozen=True)
class _Choice:
    """One of several chains of operations, drawn uniformly."""

    chains: List[List[_Operation]]

    def __call__(self, image, rng):
        for operation in self.chains[rng.integers(len(self.chains))]:
            image = operation(image, rng)
        return image


@dataclass(frozen=True)
class _AugMix:
    """The image mixed with several augmented copies of itself; a depth below 1 means a random depth of 1 to 3."""

    operations: List[_Operation]
    width: int
    depth: int
    alpha: float

    def __call__(self, image, rng):
        mixed = np.zeros(image.shape, np.float32)
        for weight in rng.dirichlet([self.alpha] * self.width):
            copy = image
            for index in rng.integers(len(self.operations), size=self.depth if self.depth > 0 else rng.integers(1, 4)):
                copy = self.operations[index](copy, rng)
            mixed += np.float32(weight) * copy
        fraction = np.float32(rng.beta(self.alpha, self.alpha))
        return np.clip(np.rint(image * (1 - fraction) + mixed * fraction), 0, 255).astype(np.uint8)


class ColorJitter:
    """Brightness, contrast and saturation, in random order, by factors from ``1 - strength`` to ``1 + strength``.

    Args:
        strengths: one number for all three, or three numbers.
    """

    def __init__(self, strengths: Sequence[float]):
        self.strengths = tuple(strengths) * 3 if len(strengths) == 1 else tuple(strengths)

    def __call__(self, image, rng):
        changes = (brightness, contrast, color)
        factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in self.strengths]
        for index in rng.permutation(len(changes)):
            image = changes[index](image, factors[index])
        return image


def _table(image, values):
    """Each pixel value replaced by ``values[value]``, rounded and clipped."""
    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))


_LEVELS = np.arange(256)


def auto_contrast(image, *_):
    low, high = np.array([cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image)]).T  # (3,) each
    span = np.maximum(high - low, 1)
    stretched = (_LEVELS[:, None] - low) * (255 / span)  # (256, 3)
    kept = np.where(high > low, stretched, _LEVELS[:, None])
    return _table(image, kept[:, None, :])


def equalize(image, *_):
    tables = [_equalizing(channel) for channel in cv2.split(image)]
    return _table(image, np.stack(tables, -1)[:, None, :])


def _equalizing(channel):
    histogram = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(int)
    seen = histogram[histogram > 0]
    step = (seen.sum() - seen[-1]) // 255
    if step == 0:
        return _LEVELS
    return (step // 2 + np.cumsum(histogram) - histogram) // step


def invert(image, *_):
    return cv2.bitwise_not(image)


def posterize(image, bits, *_):
    """Keep the ``bits`` highest bits."""
    return image if bits >= 8 else cv2.bitwise_and(image, (256 - 2 ** (8 - bits),) * 4)


def solarize(image, threshold, *_):
    """Invert values of at least ``threshold``."""
    return _table(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def color(image, factor, *_):
    """Blend with the grey image: 0 is grey, 1 the image."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def contrast(image, factor, *_):
    """Blend with the grey image's mean."""
    mean = np.rint(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return _table(image, mean + (_LEVELS - mean) * factor)


def brightness(image, factor, *_):
    return _table(image, _LEVELS * factor)


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def sharpness(image, factor, *_):
    """Blend with the smoothed image, except for the outermost pixels."""
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    blended = cv2.addWeighted(image, factor, smooth, 1 - factor, 0)
    result = image.copy()
    result[1:-1, 1:-1] = blended[1:-1, 1:-1]
    return result


def gaussian_blur(image, sigma, *_):
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _warp(image, matrix, surface):
    """``matrix`` maps a pixel's position in the result, with centres at integers, to its position in ``image``."""
    flags = surface.filter if surface.filter != cv2.INTER_AREA else cv2.INTER_LINEAR
    return cv2.warpAffine(image, np.float64(matrix), image.shape[1::-1], flags=flags | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=surface.fill)  # fmt: skip


def rotate(image, degrees, surface):
    """Counter-clockwise, about the centre."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0), surface)


def shear_x(image, factor, surface):
    return _warp(image, [[1, factor, factor / 2], [0, 1, 0]], surface)


def shear_y(image, factor, surface):
    return _warp(image, [[1, 0, 0], [factor, 1, factor / 2]], surface)


def translate_x(image, fraction, surface):
    return _warp(image, [[1, 0, fraction * image.shape[1]], [0, 1, 0]], surface)


def translate_y(image, fraction, surface):
    return _warp(image, [[1, 0, 0], [0, 1, fraction * image.shape[0]]], surface)


_FUNCTIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "PosterizeOriginal": posterize,
    "Solarize": solarize,
    "Color": color,
    "Desaturate": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "GaussianBlurRand": gaussian_blur,
}
_NAMES = ("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness",
          "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY")  # fmt: skip


def _rising(name):
    return f"{name}Increasing" if f"{name}Increasing" in _ARGUMENTS else name


# From a level, usually 0 to 1, and a random sign to the operation's argument.
_ARGUMENTS = {
    "AutoContrast": lambda level, sign: None,
    "Equalize": lambda level, sign: None,
    "Invert": lambda level, sign: None,
    "Rotate": lambda level, sign: sign * 30 * level,
    "Posterize": lambda level, sign: int(4 * level),
    "PosterizeIncreasing": lambda level, sign: 4 - int(4 * level),
    "PosterizeOriginal": lambda level, sign: 4 + int(4 * level),
    "Solarize": lambda level, sign: int(256 * level),
    "SolarizeIncreasing": lambda level, sign: 256 - int(256 * level),
    **{name: lambda level, sign: 0.1 + 1.8 * level for name in ("Color", "Contrast", "Brightness", "Sharpness")},
    **{
        f"{name}Increasing": lambda level, sign: max(0.1, 1 + sign * 0.9 * level)
        for name in ("Color", "Contrast", "Brightness", "Sharpness")
    },
    **{name: lambda level, sign: sign * 0.3 * level for name in ("ShearX", "ShearY")},
    **{name: lambda level, sign: sign * 0.45 * level for name in ("TranslateX", "TranslateY")},
    "Desaturate": lambda level, sign: 0.5 * (1 - level),
    "GaussianBlurRand": lambda level, sign: 2.0 * level,
}
# TrivialAugment's wide ranges.
_WIDE_ARGUMENTS = {
    "Rotate": lambda level, sign: sign * 135 * level,
    "Posterize": lambda level, sign: 8 - int(6 * level),
    "Solarize": lambda level, sign: 256 - int(256 * level),
    **{name: lambda level, sign: 1 + sign * 0.99 * level for name in ("Color", "Contrast", "Brightness", "Sharpness")},
    **{name: lambda level, sign: sign * 0.99 * level for name in ("ShearX", "ShearY")},
    **{name: lambda level, sign: sign * level * 32 / 224 for name in ("TranslateX", "TranslateY")},
}
_AUGMIX_NAMES = tuple(_rising(name) for name in _NAMES if name != "Invert")

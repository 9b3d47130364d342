"""Options of pixels, the same for every task."""

from dataclasses import dataclass
from typing import Optional, Tuple

from ..errors import InputError
from .groups import Group, option
from .model import Model
from .values import show

__all__ = ["MAX_SIDE", "Normalization", "check_factors"]

MAX_SIDE = 8192  # pixels of an image that a network sees; a square of that is 805 MB in float32


def check_factors(options: Group, name: str) -> None:
    """Refuse factors on ``img_scale`` at which images would have sides of more than twice :data:`MAX_SIDE`.

    Raises:
        InputError: naming the option.
    """
    scale, factors = options.img_scale or (1,), getattr(options, name)
    if max(scale) * max(factors, default=1) > 2 * MAX_SIDE:
        raise InputError(
            f"{name} is {show(list(factors))}, at which images get sides of {max(scale) * max(factors):g} pixels, but "
            f"{2 * MAX_SIDE} is the most: use smaller factors."
        )


@dataclass
class Normalization(Model):
    """Mean and deviation by which pixels are normalised; on the scale 0 to 255, as MindCV's."""

    title = "Images"

    mean: Optional[Tuple[float, ...]] = option(
        None, "channel means, on the scale 0 to 255; default: the model's own", at_least=0, at_most=255,
        example="123.675 116.28 103.53",
    )  # fmt: skip
    std: Optional[Tuple[float, ...]] = option(
        None, "channel deviations, on the scale 0 to 255; default: the model's own", above=0, at_most=255,
        example="58.395 57.12 57.375",
    )  # fmt: skip

    def check(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise InputError(
                    f"{name} is {show(list(values))}, but must be {self.in_channels} numbers, one for each channel."
                )
        caffe = self.mean is not None and max(self.mean) > 1 and self.std is not None and set(self.std) == {1}
        if self.mean is not None and 0 < max(self.mean) <= 1:
            self._refuse_scale("mean")
        if self.std is not None and max(self.std) <= 1 and not caffe:
            self._refuse_scale("std")

    @property
    def mean_and_std(self) -> Tuple[Tuple[float, ...], Tuple[float, ...]]:
        """What pixels are normalised by, on the scale 0 to 255: as given, else the model's own, else ImageNet's."""
        from ..models.family import IMAGENET  # here, since the options of serve.py are read without MindSpore
        from ..models.registry import config_of

        own = config_of(self.model)
        pairs = (self.mean, own.mean or IMAGENET["mean"]), (self.std, own.std or IMAGENET["std"])
        return tuple(tuple(255 * value for value in known) if given is None else given for given, known in pairs)

    def needs_colour(self) -> None:
        """Refuse a network of images that are not in colour, for scripts that read all images so."""
        if self.in_channels != 3:
            raise InputError(f"in_channels is {self.in_channels}, but images are read in colour: use a model of 3.")

    def _refuse_scale(self, name: str) -> None:
        """Most other projects write these numbers on the scale 0 to 1; here they would leave pixels as they are."""
        values = getattr(self, name)
        raise InputError(
            f"{name} is {show(list(values))}, which is on the scale 0 to 1, but pixels are from 0 to 255 here: write "
            f"{' '.join(f'{255 * value:g}' for value in values)}."
        )

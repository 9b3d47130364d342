"""What the three families of classifiers have in common beside their layers."""

from typing import Any, Dict, Sequence, Tuple

from ..errors import InputError

__all__ = ["check_out_indices", "image_config"]


def image_config(input_size: Tuple[int, int], first_conv: str, crop_pct: float, **more: Any) -> Dict[str, Any]:
    """The entry of a classifier in MindCV's registry: images of ImageNet, resized by the bicubic filter.

    Args:
        input_size: height and width.
        first_conv: name of the cell that sees the images.
        crop_pct: side of the evaluation crop over that of the resized image.
    """
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, *input_size),
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": "head",
        **more,
    }


def check_out_indices(family: str, out_indices: Sequence[int]) -> None:
    """Raise InputError unless ``out_indices`` are some of the four maps of a family's backbone."""
    if not out_indices or not set(out_indices) <= set(range(4)):
        raise InputError(
            f"out_indices is {tuple(out_indices)}, but {family} has four feature maps: choose from 0, 1, 2 and 3."
        )

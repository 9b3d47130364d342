"""What model files have in common beside their layers: entries of MindCV's registry, and one check."""

from typing import Any, Dict, Sequence, Tuple

from ..errors import InputError

__all__ = ["check_out_indices", "dense_config", "image_config"]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of its pixels, on the scale 0 to 1


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
        **IMAGENET,
        "first_conv": first_conv,
        "classifier": "head",
        **more,
    }


def dense_config(task: str, num_classes: int, input_size: Tuple[int, int], **more: Any) -> Dict[str, Any]:
    """The entry of a model over a backbone.

    Args:
        task: "detection" or "segmentation".
        num_classes: of the data set that its authors train it on.
        input_size: height and width.
        **more: more of :class:`~mindcv_models.models.registry.ModelConfig`.
    """
    return {"url": "", "task": task, "num_classes": num_classes, "input_size": (3, *input_size), **IMAGENET, **more}


def check_out_indices(family: str, out_indices: Sequence[int]) -> None:
    """Raise InputError unless ``out_indices`` are some of the four maps of a family's backbone."""
    if not out_indices or not set(out_indices) <= set(range(4)):
        raise InputError(
            f"out_indices is {tuple(out_indices)}, but {family} has four feature maps: choose from 0, 1, 2 and 3."
        )

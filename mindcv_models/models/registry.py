"""Models by name: this project's and MindCV's, from one registry."""

import fnmatch
from dataclasses import dataclass
from typing import List, Optional, Tuple

import mindcv.models
from mindcv.models.registry import get_pretrained_cfg, is_model
from mindspore import nn

from ..errors import InputError, nearest, shown
from . import fastervit, fastvit, litv2, mask_rcnn, retinanet, semantic_fpn

__all__ = ["ModelConfig", "config_of", "create_model", "list_models"]

FAMILIES = (fastvit, fastervit, litv2)
DENSE = (retinanet, mask_rcnn, semantic_fpn)  # models over a backbone


def list_models(pattern: str = "*", task: str = "classification") -> List[str]:
    """Names of this project's models for a task that match a shell-style ``pattern``, sorted.

    Args:
        task: "classification", "detection" or "segmentation".
    """
    own = sorted(name for family in (*FAMILIES, *DENSE) for name in family.VARIANTS)
    return [name for name in own if fnmatch.fnmatch(name, pattern) and task_of(name) == task]


@dataclass(frozen=True)
class ModelConfig:
    """What a registered model says of itself; the defaults are those of models that do not say.

    Attributes:
        task: "classification", "detection" or "segmentation".
        input_size: channels, height and width of the images that it was made for.
        mean, std: of the images that it was trained on, by channel, on the scale 0 to 1; None where it does not say.
        crop_pct, crop_mode, interpolation: preparation of its images for evaluation.
        classifier: names of the cells whose shapes depend on the number of classes, the one with the classes' logits
            first; empty where it does not say.
        outputs_per_class: outputs of the first of these cells for each class, such as one for each anchor of a place.
        background: whether it has an output more, for the background.
    """

    task: str = "classification"
    input_size: Tuple[int, int, int] = (3, 224, 224)
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bilinear"
    classifier: Tuple[str, ...] = ()
    outputs_per_class: int = 1
    background: bool = False


def config_of(model_name: str) -> ModelConfig:
    """What the model ``model_name`` of this project or of MindCV says of itself; the defaults for an unknown name."""
    said = get_pretrained_cfg(model_name) if is_model(model_name) else {}
    known = {name: said[name] for name in ModelConfig.__dataclass_fields__ if said.get(name)}
    if isinstance(known.get("classifier"), str):
        known["classifier"] = (known["classifier"],)
    return ModelConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in known.items()})


def task_of(model_name: str) -> str:
    """What a registered model does: "classification", "detection" or "segmentation"."""
    return config_of(model_name).task


def create_model(
    model_name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    **kwargs,
) -> nn.Cell:
    """Build a model of this project or of MindCV by name.

    Args:
        num_classes: width of the classifier; 0 leaves it out.
        in_channels: channels of the input images.
        **kwargs: the model's own options, such as ``drop_path_rate`` or ``features_only`` with ``out_indices``;
            None leaves an option at its default.

    Raises:
        InputError: no model has that name, or it does not know an option or its value.
    """
    if kwargs.get("checkpoint_path"):  # MindCV's: read by MindSpore, which checks nothing and leaves out what differs
        raise InputError("checkpoint_path: load checkpoints of every kind with mindcv_models.checkpoint.load_weights.")
    if not is_model(model_name):
        hint = nearest(model_name, mindcv.list_models(), "mindcv.list_models() lists the names.")
        raise InputError(f"unknown model {model_name!r}: {hint}")
    try:
        return mindcv.create_model(model_name, num_classes=num_classes, in_channels=in_channels, **kwargs)
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        if "unexpected keyword argument" in str(error):
            raise InputError(f"{model_name}: {error}. Leave that option out, or choose a model that has it.") from error
        given = {name: value for name, value in kwargs.items() if value is not None}
        if not given:
            raise
        raise InputError(f"{model_name} does not take {shown(given)} ({error}): change the value.") from error

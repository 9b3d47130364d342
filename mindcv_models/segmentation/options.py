"""The options of segmentation: pictures with label maps, how they are prepared, and how a picture is predicted.

Sizes are height and width; ``img_scale`` is a long and a short side, whatever the picture's orientation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..errors import InputError, nearest
from ..options import (
    MAX_SIDE,
    Averages,
    Batches,
    Device,
    Group,
    Normalization,
    Precision,
    RunOptions,
    System,
    check_factors,
    check_pair,
    option,
    show,
)
from ..options.backbone import Backbone

__all__ = ["DATASETS", "Head", "InferOptions", "Inferring", "LabelMaps", "Prepared", "TrainOptions", "Transforms",
           "ValidateOptions"]  # fmt: skip

DATASETS = ("ade20k", "digits_scenes", "folders")


@dataclass
class Head(Backbone):
    """Semantic FPN's own sizes; with other ones than the defaults, official checkpoints do not fit."""

    title = "Model"

    channels: int = option(256, "width of the segmenter's neck", at_least=1)
    head_channels: int = option(128, "width of its head", at_least=1)

    @property
    def network_options(self) -> Dict[str, Any]:
        """What ``create_model`` gets beside what every model gets."""
        return {**super().network_options, "channels": self.channels, "head_channels": self.head_channels}


@dataclass
class LabelMaps(Batches):
    """Where the pictures and their label maps are."""

    title = "Data"

    dataset: str = option(
        "ade20k", "'ade20k', 'digits_scenes' for the embedded one, or 'folders' for any pictures and label maps"
    )
    data_dir: str = option(
        "./", "folder that the four folders below are in", path=True, also=("data", "data_path", "data_root", "root")
    )
    train_images: str = option("images/training", "folder of the training pictures", path=True, also=("img_dir",))
    train_labels: str = option("annotations/training", "folder of their label maps", path=True, also=("ann_dir",))
    val_images: str = option("images/validation", "folder of the pictures to validate on", path=True)
    val_labels: str = option("annotations/validation", "folder of their label maps", path=True)
    image_suffix: str = option("", "ending of the pictures' names, such as _leftImg8bit.png; default: any picture")
    label_suffix: str = option(".png", "ending of the label maps' names, in place of the pictures'")
    class_names: Optional[str] = option(
        None, "text file with a name a line, in the order of the labels; default: classes.txt or ADE20K's list in "
        "data_dir", path=True, also=("class_map", "names"),
    )  # fmt: skip
    ignore_label: Optional[int] = option(255, "label that counts nowhere", at_least=0, also=("ignore_index",))
    reduce_zero_label: Optional[bool] = option(
        None, "label 0 counts nowhere, and label k is class k - 1; default: so for ade20k and digits_scenes"
    )
    skip_bad_images: bool = option(False, "leave out pictures that cannot be decoded, rather than stop at one")

    @property
    def first_label(self) -> int:
        """The label of the first class."""
        default = self.dataset.lower() in ("ade20k", "digits_scenes")
        return int(default if self.reduce_zero_label is None else self.reduce_zero_label)

    def check(self) -> None:
        if self.dataset.lower() not in DATASETS:
            hint = nearest(self.dataset, DATASETS, f"choose from {', '.join(DATASETS)}.")
            raise InputError(f"dataset is {show(self.dataset)}, which segmentation does not know: {hint}")


@dataclass
class Prepared(Normalization):
    """How pixels become the network's input."""

    title = "Images"

    img_scale: Optional[Tuple[int, ...]] = option(
        None, "long and short side that a picture is resized to fit into, its ratio kept; default: as it is",
        at_least=1, at_most=MAX_SIDE, example="2048 512",
    )  # fmt: skip

    def check(self) -> None:
        check_pair(self, "img_scale")
        self.needs_colour()


@dataclass
class Transforms(Group):
    """What happens to a training picture."""

    title = "Augmentation"

    crop_size: Tuple[int, ...] = option(
        (512, 512), "height and width of the random crop that the network sees", at_least=32, at_most=MAX_SIDE,
        example="512 512",
    )  # fmt: skip
    ratio_range: Tuple[float, ...] = option(
        (0.5, 2.0), "smallest and largest random factor on the size", above=0, at_most=8, example="0.5 2.0"
    )
    hflip: float = option(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    rotation: float = option(
        0.0, "largest angle in degrees by which pictures are turned at random, either way", at_least=0, at_most=180,
        also=("degrees", "rotate"),
    )  # fmt: skip
    photometric: bool = option(True, "change brightness, contrast, saturation and hue at random")
    copy_paste: int = option(
        0, "how many other pictures' objects are pasted over a training picture: all but their commonest class",
        at_least=0, at_most=16,
    )  # fmt: skip
    paste_margin: int = option(
        0, "pixels around such objects that are pasted with them, for edges that are not sharp", at_least=0, at_most=64
    )
    paste_epochs: Optional[int] = option(
        None, "objects are pasted up to this epoch and not later; default: to the end", at_least=1
    )

    def check(self) -> None:
        check_pair(self, "crop_size")
        check_pair(self, "ratio_range", rising=True)
        check_factors(self, "ratio_range")


@dataclass
class Inferring(Group):
    """How a whole picture is predicted."""

    title = "Inference"

    inference: str = option(
        "whole", "show the network the whole picture, or windows that slide over it", ("whole", "slide")
    )
    window: Tuple[int, ...] = option(
        (512, 512), "slide: height and width of a window", at_least=32, at_most=MAX_SIDE, example="512 512"
    )
    stride: Optional[Tuple[int, ...]] = option(
        None, "slide: steps down and to the right; default: two thirds of the window", at_least=1, example="341 341"
    )
    pad_divisor: int = option(
        1, "whole: pad pictures to multiples of this, so that fewer sizes are compiled; 1 is the official way",
        at_least=1,
    )  # fmt: skip
    tta_ratios: Tuple[float, ...] = option(
        (1.0,), "factors on the size of the views whose probabilities are averaged", above=0, at_most=8,
        example="0.75 1 1.25",
    )  # fmt: skip
    tta_flip: bool = option(False, "average over each view and its mirror image")

    def check(self) -> None:
        check_pair(self, "window")
        check_pair(self, "stride")
        if self.stride is not None and any(step > side for step, side in zip(self.stride, self.window)):
            raise InputError(
                f"stride is {show(list(self.stride))}, but windows of {show(list(self.window))} would leave gaps: use "
                "a smaller stride."
            )
        if not self.tta_ratios:
            raise InputError("tta_ratios is empty: give at least one factor, such as 1.0.")
        check_factors(self, "tta_ratios")


class _Recipes(Group):
    """Read from recipes that ``train.py``, ``validate.py`` and ``infer.py`` share."""

    @classmethod
    def scripts(cls):
        return {"train.py": TrainOptions, "validate.py": ValidateOptions, "infer.py": InferOptions}


@dataclass
class TrainOptions(RunOptions, Head, LabelMaps, Prepared, Transforms, Inferring, _Recipes):
    """The options of ``train.py`` for a segmenter."""

    class_weights: Optional[Tuple[float, ...]] = option(
        None, "factor on the loss of each class's pixels, in the order of the classes; default: 1 for all", at_least=0,
        example="1 1 0.5", also=("class_weight",),
    )  # fmt: skip
    dice_weight: float = option(
        0.0, "factor on the Dice loss beside the cross entropy: every class of a batch counts alike in it", at_least=0
    )


@dataclass
class ValidateOptions(System, Head, LabelMaps, Prepared, Inferring, Averages, Precision, _Recipes):
    """The options of ``validate.py`` for segmenters."""

    title = "Validation"

    ckpt_path: Tuple[Path, ...] = option(
        (), "checkpoints to validate: .ckpt of this project, or PyTorch checkpoints", also=("checkpoint", "weights")
    )
    reparam: bool = option(
        False, "fuse the network first (structural reparameterization)", also=("reparameterize", "fuse")
    )
    report_dir: Optional[str] = option(
        None, "folder for the table as CSV and Markdown, and for each checkpoint's figures by class", path=True
    )

    def check(self) -> None:
        self.require_weights("validate")


@dataclass
class InferOptions(Device, Batches, Head, Prepared, Inferring, Averages, Precision, _Recipes):
    """The options of ``infer.py`` for segmenters."""

    title = "Prediction"

    images: Tuple[Path, ...] = option(
        (), "image files, folders, globs in quotes, or 'samples'", also=("input", "source", "image", "img")
    )
    batch_size: int = option(1, "pictures of one size that go through the network together", at_least=1)
    reparam: bool = option(
        True, "fuse the network first (structural reparameterization)", also=("reparameterize", "fuse")
    )
    class_names: Optional[str] = option(
        None, "text file with a name a line; default: the run's, else numbers", path=True, also=("class_map", "names")
    )
    format: str = option("table", "what to print", ("table", "json", "csv"))
    output_dir: Optional[str] = option(
        None, "folder for the pictures with their classes drawn over, and a legend", path=True
    )
    labels_dir: Optional[str] = option(
        None, "folder for the label maps, as PNG: label k is class k - first_label", path=True
    )
    first_label: int = option(0, "value of the first class in the label maps that are written", at_least=0, at_most=1)
    opacity: float = option(0.6, "of the colours that are drawn over a picture", at_least=0, at_most=1)

    def check(self) -> None:
        self.require_weights("predict with")
        if not self.images:
            raise InputError("images is missing: give --images files, folders, globs or samples.")

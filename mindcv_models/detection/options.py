"""The options of detectors: COCO folders, how images are prepared, the backbone, and what becomes of the outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..errors import InputError, nearest
from ..files import refuse_overwriting
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
from .predict import Limits

__all__ = ["CocoFolder", "Finding", "Head", "InferOptions", "Scaling", "TrainOptions", "ValidateOptions"]

DATASETS = ("coco", "digits_scenes")


@dataclass
class Head(Backbone):
    """The detector's own sizes; with other ones than the defaults, official checkpoints do not fit."""

    title = "Model"

    channels: int = option(256, "width of the detector's neck and head", at_least=1)
    convs: int = option(
        4,
        "convolutions in each tower of RetinaNet's head, or in Mask R-CNN's mask head, before the last one",
        at_least=1,
    )
    anchor_scale: Optional[float] = option(
        None, "side of the smallest anchors, in strides; default: for objects of 32 pixels and more, 4 for RetinaNet, "
        "whose smallest stride is 8, and 8 for Mask R-CNN, whose is 4", above=0,
    )  # fmt: skip

    @property
    def network_options(self) -> Dict[str, Any]:
        """What ``create_model`` gets beside what every model gets."""
        names = ("channels", "convs", "anchor_scale")
        return {**super().network_options, **{name: getattr(self, name) for name in names}}


@dataclass
class CocoFolder(Batches):
    """Where images and annotations are."""

    title = "Data"

    dataset: str = option(
        "coco", "'coco' for a COCO folder or files in its format, 'digits_scenes' for the embedded one"
    )
    data_dir: str = option(
        "./",
        "folder with annotations/instances_<split>.json and <split>/",
        path=True,
        also=("data", "data_path", "root"),
    )
    train_split: str = option("train2017", "name of the training split in data_dir")
    val_split: str = option("val2017", "name of the validation split in data_dir")
    train_annotations: str = option(
        "", "training annotations, a file in COCO's format, rather than data_dir's", path=True
    )
    val_annotations: str = option("", "validation annotations, rather than data_dir's", path=True)
    image_dir: Optional[str] = option(
        None, "folder of the images of both; default: data_dir's of each split, or data_dir for files of one's own",
        path=True,
    )  # fmt: skip
    skip_bad_images: bool = option(False, "go on without images that are missing or cannot be decoded")

    def check(self) -> None:
        if self.dataset.lower() not in DATASETS:
            hint = nearest(self.dataset, DATASETS, f"choose from {', '.join(DATASETS)}.")
            raise InputError(f"dataset is {show(self.dataset)}, which no detector is trained on: {hint}")


@dataclass
class Scaling(Normalization):
    """How an image becomes the network's input."""

    title = "Images"

    img_scale: Tuple[int, ...] = option(
        (1333, 800), "images are resized, with their ratio kept, to fit these sides, in either order", at_least=32,
        at_most=MAX_SIDE, example="1333 800", also=("image_scale", "image_size", "img_size", "image_resize", "imgsz"),
    )  # fmt: skip
    padding: str = option(
        "bucket", "validation: pad images to the two shapes of training, or each to its own multiples of 32, a "
        "compilation for each shape", ("bucket", "own"),
    )  # fmt: skip

    def check(self) -> None:
        check_pair(self, "img_scale")
        self.needs_colour()


@dataclass
class Finding(Group):
    """What counts as found."""

    title = "Detection"

    score_threshold: float = option(0.05, "least score of a detection", at_least=0, below=1, also=("conf", "score_thr"))
    nms_threshold: float = option(
        0.5, "boxes of a class that overlap more than this are one object", above=0, at_most=1, also=("iou_thr",)
    )
    max_detections: int = option(100, "detections of an image at most", at_least=1, also=("max_det", "max_per_img"))

    @property
    def limits(self) -> Limits:
        return Limits(self.score_threshold, self.nms_threshold, per_image=self.max_detections)


@dataclass
class Regions(Group):
    """What Mask R-CNN's second stage looks at in training."""

    title = "Regions"

    regions: int = option(1000, "Mask R-CNN: regions of an image that the second stage may learn from", at_least=1)
    region_samples: int = option(
        512,
        "Mask R-CNN: regions of an image that it learns from; those with an object are a quarter at most",
        at_least=4,
    )


class _Recipes(Group):
    """Read from recipes that ``train.py``, ``validate.py`` and ``infer.py`` share."""

    @classmethod
    def scripts(cls):
        return {"train.py": TrainOptions, "validate.py": ValidateOptions, "infer.py": InferOptions}


@dataclass
class TrainOptions(RunOptions, Head, Regions, CocoFolder, Scaling, Finding, _Recipes):
    """The options of ``train.py`` for a detector."""

    batch_size: int = option(2, "images per step and device", at_least=1, also=("b", "bs", "batch"))
    train_scale: Optional[Tuple[int, ...]] = option(
        None, "images are resized to fit these sides in training; default: img_scale, which validation uses",
        at_least=32, at_most=MAX_SIDE, example="800 480",
    )  # fmt: skip
    hflip: float = option(0.5, "chance that left and right change places", at_least=0, at_most=1, also=("flip",))
    ratio_range: Tuple[float, ...] = option(
        (1.0, 1.0), "smallest and largest random factor on the size of what is on an image: above 1 a random window of "
        "it is shown, below 1 it lies somewhere in a larger, grey one", above=0, at_most=8, example="0.7 1.4",
    )  # fmt: skip
    rotation: float = option(
        0.0, "largest angle in degrees by which images are turned at random, either way", at_least=0, at_most=180,
        also=("degrees", "rotate"),
    )  # fmt: skip
    photometric: bool = option(False, "change brightness, contrast, saturation and hue at random")
    cls_weight: float = option(
        1.0, "RetinaNet: factor on the loss of its classes; that of its boxes has 1", above=0, also=("cls_loss_weight",)
    )

    def check(self) -> None:
        check_pair(self, "train_scale")
        check_pair(self, "ratio_range", rising=True)
        check_factors(self, "ratio_range")


@dataclass
class ValidateOptions(System, CocoFolder, Head, Scaling, Finding, Averages, Precision, _Recipes):
    """The options of ``validate.py`` for detectors."""

    title = "Validation"

    batch_size: int = option(1, "images per batch", at_least=1, also=("b", "bs", "batch"))
    ckpt_path: Tuple[Path, ...] = option(
        (), "checkpoints to validate: .ckpt of this project, or PyTorch checkpoints", also=("checkpoint", "weights")
    )
    results: str = option("", "score this file of results in COCO's format instead of a checkpoint", path=True)
    save_results: str = option("", "write the detections here, in COCO's format of results", path=True)
    report_dir: Optional[str] = option(
        None, "folder for the table as CSV and Markdown, figures of each class and precision-recall curves", path=True
    )

    def check(self) -> None:
        if bool(self.ckpt_path or self.wants_published) == bool(self.results):
            raise InputError(
                "give either --ckpt_path, checkpoints to validate, or --pretrained True, or --results, a file to score."
            )
        if self.results and self.save_results:
            raise InputError("save_results is given, but results has the detections already: leave one of them out.")
        if self.save_results:
            refuse_overwriting(self.save_results, "save_results", self.val_annotations, *self.ckpt_path)
        if self.save_results and not Path(self.save_results).absolute().parent.is_dir():
            raise InputError(f"save_results is {self.save_results}, but there is no folder for it: make it first.")


@dataclass
class InferOptions(Device, Head, Scaling, Finding, Averages, Precision, _Recipes):
    """The options of ``infer.py`` for detectors."""

    title = "Prediction"

    images: Tuple[Path, ...] = option(
        (), "image files, folders, globs in quotes, or 'samples'", also=("input", "source", "image", "img")
    )
    min_score: float = option(0.3, "tell and draw what has this score at least", at_least=0, below=1)
    format: str = option("table", "what to print", ("table", "json", "csv"))
    output_dir: Optional[str] = option(
        None, "folder for the pictures with what is in them, and for detections.json and detections.csv", path=True,
        also=("out_dir", "save_dir", "output"),
    )  # fmt: skip
    class_names: Optional[str] = option(
        None, "text file with a name a line; default: the run's classes.txt beside the checkpoint", path=True,
        also=("class_map", "labels", "names"),
    )  # fmt: skip

    def check(self) -> None:
        self.require_weights("predict with")
        if not self.images:
            raise InputError("images is missing: give --images files, folders, globs or samples.")

"""The options of classification: images in class folders, how they are prepared and augmented, and the loss.

Values on images are as MindCV has them: mean and deviation are on the scale 0 to 255.
"""

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
    Model,
    MovingAverage,
    Normalization,
    Precision,
    RunOptions,
    System,
    check_kwargs,
    check_pair,
    option,
    show,
)

__all__ = ["BENCHMARKS", "DATASETS", "TTA", "Augmentation", "ClassificationLoss",
           "Distillation", "ImageFolder", "InferOptions", "Mixing", "Preparation", "Sampling", "TrainOptions",
           "ValidateOptions"]  # fmt: skip


DATASETS = ("", "imagenet", "digits", "digits_scenes", "mnist", "cifar10", "cifar100")
BENCHMARKS = ("imagenet", "imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-c")
TTA = ("none", "flip", "five_crop", "ten_crop")


@dataclass
class ImageFolder(Batches):
    """Where the images are."""

    title = "Data"

    dataset: str = option(
        "imagenet",
        "'imagenet' or '' for an image folder, 'digits' or 'digits_scenes' for an embedded one, or a data set of "
        "MindCV's",
    )
    data_dir: str = option(
        "./", "folder with train/<class>/ and val/<class>/", path=True, also=("data", "data_path", "root")
    )
    train_split: str = option("train", "name of the training folder in data_dir", also=("train_dir",))
    val_split: str = option("val", "name of the validation folder in data_dir", also=("val_dir",))
    dataset_download: bool = option(False, "download one of MindCV's standard data sets into data_dir")
    val_ratio: Optional[float] = option(
        None, "split data_dir, a folder of class folders, and validate on this share of each class", above=0, below=1
    )
    split_file: str = option("", "split of data_dir to use: the split.json that a run with val_ratio wrote", path=True)
    class_map: Optional[str] = option(
        None, "labels by name: a text file with the name of a class folder per line, in the order of the labels, or "
        "'natural' for timm's order (2 before 10); default: the run's classes.txt, or the sorted class folders",
        path=True, also=("class_to_idx", "label_map"),
    )  # fmt: skip
    labels = None  # an option of validate.py
    skip_bad_images: bool = option(False, "check every image first, and leave out those that cannot be decoded")

    def check(self) -> None:
        if self.dataset.lower() not in DATASETS:
            hint = nearest(self.dataset, DATASETS, f"choose from {', '.join(DATASETS[1:])}, or '' for an image folder.")
            raise InputError(f"dataset is {show(self.dataset)}, which is not known: {hint}")


@dataclass
class Sampling(Group):
    """How often an epoch of training sees an image."""

    title = "Data"

    class_balanced_sampling: bool = option(
        False, "draw training images with replacement, so that each class comes equally often"
    )
    aug_repeats: int = option(0, "repeated augmentation: views of an image per epoch; 0 or 1 is off", at_least=0)


@dataclass
class Preparation(Normalization):
    """How an image file becomes the network's input; whatever is not given is the model's own."""

    title = "Images"

    image_resize: Optional[Tuple[int, ...]] = option(
        None, "image size that the network sees, or height and width; default: the model's own", at_least=1,
        at_most=MAX_SIDE, example="224, or 192 320",
        also=("img_size", "input_size", "image_size", "imgsz", "resolution"),
    )  # fmt: skip
    interpolation: Optional[str] = option(
        None, "resizing filter; default: the model's own", ("nearest", "bilinear", "bicubic", "area"),
        also=("train_interpolation",),
    )  # fmt: skip
    crop_pct: Optional[float] = option(
        None, "validation: share of the resized image that is kept; default: the model's own", above=0, at_most=1,
        also=("crop_ratio",),
    )  # fmt: skip
    crop_mode: Optional[str] = option(
        None, "validation: resize the shorter side and crop the middle, or both sides; default: the model's own",
        ("center", "squash"),
    )  # fmt: skip

    upright: bool = option(True, "turn images as their EXIF orientation says; published accuracies are without")

    def check(self) -> None:
        size = self.image_resize
        if size is not None and len(size) not in (1, 2):
            meant = f" (for {show(list(size[1:]))} write these two)" if len(size) == 3 and size[0] <= 4 else ""
            raise InputError(f"image_resize is {show(list(size))}, but must be one size, or height and width{meant}.")


@dataclass
class Augmentation(Model):
    """What happens to a training image."""

    title = "Augmentation"

    scale: Tuple[float, ...] = option(
        (0.08, 1.0), "random crop: smallest and largest share of the area", above=0, example="0.08 1.0"
    )
    ratio: Tuple[float, ...] = option(
        (0.75, 1.333), "random crop: smallest and largest aspect ratio", above=0, example="0.75 1.333"
    )
    hflip: float = option(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    vflip: float = option(0.0, "probability of a vertical flip", at_least=0, at_most=1)
    color_jitter: Optional[Tuple[float, ...]] = option(
        (0.4, 0.4, 0.4), "strength of brightness, contrast and saturation changes, without auto_augment or with 3a",
        at_least=0, example="0.4, or 0.4 0.4 0.4",
    )  # fmt: skip
    auto_augment: Optional[str] = option(
        None, "augmentation policy, such as randaug-m9-mstd0.5-inc1, autoaug, 3a, trivialaugwide, augmix", also=("aa",)
    )
    re_prob: float = option(0.0, "probability of random erasing", at_least=0, at_most=1, also=("reprob",))
    re_scale: Tuple[float, ...] = option(
        (0.02, 0.33), "random erasing: smallest and largest share of the area", above=0, example="0.02 0.33"
    )
    re_ratio: Tuple[float, ...] = option(
        (0.3, 3.3), "random erasing: smallest and largest aspect ratio", above=0, example="0.3 3.3"
    )
    re_value: Any = option(
        0, "random erasing: pixel value after normalisation, one for each channel, or 'random'", also=("remode",)
    )
    re_max_attempts: int = option(10, "random erasing: tries to place the rectangle", at_least=1)

    def check(self) -> None:
        for name in ("scale", "ratio", "re_scale", "re_ratio"):
            check_pair(self, name, rising=True)
        if len(self.color_jitter or (0,)) not in (1, 3):
            raise InputError(
                f"color_jitter is {show(list(self.color_jitter))}, but must be one strength, or three: for brightness, "
                "contrast and saturation."
            )
        values = self.re_value if isinstance(self.re_value, (list, tuple)) else [self.re_value]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        if self.re_value != "random" and not (numbers and len(values) in (1, self.in_channels)):
            raise InputError(
                f"re_value is {show(self.re_value)}, but must be a number, one for each channel, or random."
            )


@dataclass
class Mixing(Group):
    """How the images of a batch are mixed."""

    title = "Augmentation"

    mixup: float = option(0.0, "mixup's alpha; 0 is off", at_least=0, also=("mixup_alpha",))
    cutmix: float = option(0.0, "cutmix's alpha; 0 is off", at_least=0, also=("cutmix_alpha",))
    cutmix_prob: float = option(1.0, "probability that a batch is mixed", at_least=0, at_most=1, also=("mixup_prob",))


@dataclass
class ClassificationLoss(Group):
    """What training makes smaller."""

    title = "Loss"

    loss: str = option(
        "CE", "cross entropy or binary cross entropy", ("CE", "BCE", "ASL_single_label", "ASL_multi_label", "JSD"),
        also=("bce_loss", "criterion"),
    )  # fmt: skip
    label_smoothing: float = option(0.0, "label smoothing", at_least=0, at_most=1, also=("smoothing",))
    aux_factor: float = option(0.0, "weight of auxiliary logits", at_least=0)
    reduction: str = option("mean", "over the batch", ("mean", "sum"))

    def check(self) -> None:
        if self.loss == "BCE" and self.aux_factor:
            raise InputError("MindCV's BCE leaves auxiliary logits out: set aux_factor to 0, or loss to CE.")


@dataclass
class Distillation(MovingAverage):
    """A teacher beside the labels: another network, or the moving average of the network itself."""

    title = "Distillation"

    distillation_type: str = option(
        "none", "learn from a teacher: the labels that it gives (hard), or its softened distribution (soft)",
        ("none", "soft", "hard"),
    )  # fmt: skip
    distillation_alpha: float = option(
        0.5, "share of the teacher in the loss; 1 - alpha is the labels'", at_least=0, at_most=1
    )
    distillation_tau: float = option(1.0, "temperature of soft distillation", above=0)
    teacher_model: str = option(
        "regnet_y_16gf", "the teacher, a model of this project or of MindCV; it sees the student's images, at the "
        "student's size, mean and deviation", also=("teacher",),
    )  # fmt: skip
    teacher_path: str = option(
        "", "the teacher's weights: a .ckpt or an official .safetensors, for as many classes", path=True,
        also=("teacher_checkpoint",),
    )  # fmt: skip
    teacher_kwargs: Optional[Dict[str, Any]] = option(None, "further options of the teacher, as model_kwargs")
    mesa: float = option(
        0.0, "weight of self-distillation from the moving average (MESA); needs ema; 0 is off", at_least=0
    )
    mesa_start_ratio: float = option(
        0.25, "MESA starts when more than this share of the epochs is done", at_least=0, at_most=1
    )

    def check(self) -> None:
        check_kwargs("teacher_kwargs", self.teacher_kwargs)
        if self.distillation_type != "none" and not self.teacher_path:
            raise InputError(
                f"distillation_type is {self.distillation_type}, but teacher_path is empty: give the weights of "
                f"{self.teacher_model}, since an untrained teacher has nothing to teach."
            )
        if self.mesa and not self.ema:
            raise InputError(f"mesa is {self.mesa}, but learns from the moving average: set ema to True.")


class _Recipes(Group):
    """Read from recipes that ``train.py``, ``validate.py`` and ``infer.py`` share."""

    @classmethod
    def scripts(cls):
        return {"train.py": TrainOptions, "validate.py": ValidateOptions, "infer.py": InferOptions}


@dataclass
class TrainOptions(
    RunOptions, ImageFolder, Sampling, Preparation, Augmentation, Mixing, ClassificationLoss, Distillation, _Recipes
):
    """The options of ``train.py`` for a classifier."""


@dataclass
class ValidateOptions(System, ImageFolder, Preparation, Averages, Precision, _Recipes):
    """The options of ``validate.py`` for classifiers."""

    title = "Validation"

    ckpt_path: Tuple[Path, ...] = option(
        (), "checkpoints to validate: .ckpt of this project, or PyTorch checkpoints", also=("checkpoint", "weights")
    )
    labels: Optional[str] = option(
        None, "labels of the images below val_split, or data_dir, whatever folders they are in: a CSV file with an "
        "image and its class, a name or a number, per line", path=True,
        also=("label_file", "ann_file", "csv", "val_list"),
    )  # fmt: skip
    reparam: bool = option(
        False, "fuse the network first (structural reparameterization)", also=("reparameterize", "fuse")
    )
    average: bool = option(False, "validate the average of the checkpoints' weights")
    average_path: Optional[str] = option(None, "save the averaged weights here", path=True)
    benchmark: Optional[str] = option(
        None, "what the folder is, if its classes are not the network's; val_split, or data_dir for -c", BENCHMARKS
    )
    real_labels: Optional[str] = option(
        None, "ImageNet's reassessed labels, the file real.json: adds their accuracy", path=True
    )
    tta: str = option("none", "test-time augmentation: views whose probabilities are averaged", TTA)
    report_dir: Optional[str] = option(
        None, "folder for the table as CSV and Markdown, and for each checkpoint's report, predictions and pictures",
        path=True,
    )  # fmt: skip

    @property
    def looks_at_each_image(self) -> bool:
        """Whether anything needs more than the totals over all images."""
        return bool(self.benchmark or self.real_labels or self.report_dir or self.tta != "none")

    def check(self) -> None:
        self.require_weights("validate")
        if self.average and len(self.ckpt_path) < 2:
            raise InputError("average is True, but ckpt_path is one checkpoint: give it two or more.")
        if self.average_path and not self.average:
            raise InputError("average_path is given, but average is False: set it to True.")
        if self.average_path and not Path(self.average_path).absolute().parent.is_dir():
            raise InputError(f"average_path is {self.average_path}, but there is no folder for it: make it first.")
        if self.average_path and Path(self.average_path).is_dir():
            raise InputError(f"average_path is {self.average_path}, which is a folder: give the file to write.")
        if self.average_path:
            refuse_overwriting(self.average_path, "average_path", *self.ckpt_path)
        if self.benchmark and self.num_classes not in (None, 1000):
            raise InputError(f"num_classes is {self.num_classes}, but {self.benchmark} needs 1000: leave it out.")
        if self.labels and (self.benchmark or self.split_file):
            other = "split_file" if self.split_file else "benchmark"
            raise InputError(
                f"labels is {self.labels}, but {other} says what the images are too: leave one of them out."
            )
        if self.real_labels and self.benchmark not in (None, "imagenet"):
            raise InputError(f"real_labels are ImageNet's own: leave --benchmark {self.benchmark} out.")


@dataclass
class InferOptions(Device, Batches, Preparation, Averages, Precision, _Recipes):
    """The options of ``infer.py`` for classifiers."""

    title = "Prediction"

    images: Tuple[Path, ...] = option(
        (), "image files, folders, globs in quotes, or 'samples'", also=("input", "source", "image", "img")
    )
    batch_size: int = option(16, "images per batch", at_least=1, also=("b", "bs", "batch"))
    reparam: bool = option(
        True, "fuse the network first (structural reparameterization)", also=("reparameterize", "fuse")
    )
    topk: int = option(5, "classes to tell of each image", at_least=1, also=("top_k", "k"))
    format: str = option("table", "what to print", ("table", "json", "csv"))
    class_names: Optional[str] = option(
        None, "text file with a name a line, or folder of class folders; default: the run's, or ImageNet-1K's",
        path=True, also=("class_map", "labels", "names"),
    )  # fmt: skip
    tta: str = option("none", "test-time augmentation: views whose probabilities are averaged", TTA)
    cam: Optional[str] = option(None, "folder for class-activation maps of the first predictions, as PNG", path=True)

    def check(self) -> None:
        self.require_weights("predict with")
        if not self.images:
            raise InputError("images is missing: give --images files, folders, globs or samples.")
        self.needs_colour()

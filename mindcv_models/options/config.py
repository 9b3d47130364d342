"""The options of ``train.py`` and ``validate.py``: MindCV's names, types and YAML layout."""

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Type, TypeVar

import yaml

from ..errors import InputError, nearest
from .parse import option, parse, show

__all__ = ["Options", "check_preparation", "parse_options", "save_options"]

T = TypeVar("T", bound="Options")

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "lion", "nadam", "adan", "rmsprop", "adagrad", "lamb",
              "sophiag")  # fmt: skip
SCHEDULERS = (
    "constant",
    "cosine_decay",
    "warmup_cosine_decay",
    "exponential_decay",
    "polynomial_decay",
    "poly",
    "step_decay",
    "multi_step_decay",
    "one_cycle",
    "cyclic",
    "plateau",
)


@dataclass
class Options:
    """Every option, resolved. Tuples are tuples, booleans are booleans, None means "not given"."""

    mode: int = option(0, "0 compiles the training step as a graph, 1 runs eagerly (PyNative)", (0, 1), group="System")
    device_target: Optional[str] = option(
        None, "device to run on; default: the best that is there", ("Ascend", "GPU", "CPU")
    )
    distribute: bool = option(False, "train data-parallel under mpirun or msrun")
    seed: int = option(42, "seed of the random numbers; rank r uses seed + r")
    log_interval: int = option(100, "steps between two lines of the training log")
    tensorboard: bool = option(False, "write each epoch's numbers for TensorBoard too; needs tensorboardX")
    val_while_train: bool = option(False, "validate during training")
    val_interval: int = option(1, "epochs between two validations")

    dataset: str = option(
        "imagenet",
        "'imagenet' or '' for an image folder, 'digits' for the embedded one, or a data set of MindCV's",
        group="Data",
    )
    data_dir: str = option("./", "folder with train/<class>/ and val/<class>/")
    train_split: str = option("train", "name of the training folder in data_dir")
    val_split: str = option("val", "name of the validation folder in data_dir")
    dataset_download: bool = option(False, "download one of MindCV's standard data sets into data_dir")
    num_parallel_workers: int = option(8, "threads that decode and augment images, at most the machine's cores")
    shuffle: bool = option(True, "shuffle the training images each epoch")
    num_samples: Optional[int] = option(None, "train on this many images only")
    batch_size: int = option(128, "images a step and device")
    drop_remainder: bool = option(True, "drop the last training batch if it is not full")
    class_balanced_sampling: bool = option(
        False, "draw training images with replacement, so that each class comes equally often"
    )
    val_ratio: Optional[float] = option(
        None, "split data_dir, a folder of class folders, and validate on this share of each class"
    )
    split_file: str = option("", "split of data_dir to use: the split.json that a run with val_ratio wrote")
    aug_repeats: int = option(0, "repeated augmentation: views of an image an epoch; 0 or 1 is off")
    skip_bad_images: bool = option(False, "check every image first and go on without those that cannot be decoded")

    image_resize: Optional[Tuple[int, ...]] = option(
        None, "image size that the network sees, or height and width; default: the model's own", group="Augmentation"
    )
    scale: Tuple[float, ...] = option((0.08, 1.0), "random crop: smallest and largest share of the area")
    ratio: Tuple[float, ...] = option((0.75, 1.333), "random crop: smallest and largest aspect ratio")
    hflip: float = option(0.5, "probability of a horizontal flip")
    vflip: float = option(0.0, "probability of a vertical flip")
    color_jitter: Optional[Tuple[float, ...]] = option(
        (0.4, 0.4, 0.4), "strength of brightness, contrast and saturation changes, without auto_augment or with 3a"
    )
    interpolation: Optional[str] = option(
        None, "resizing filter; default: the model's own", ("nearest", "bilinear", "bicubic", "area")
    )
    auto_augment: Optional[str] = option(
        None, "augmentation policy, such as randaug-m9-mstd0.5-inc1, autoaug, 3a, trivialaugwide, augmix"
    )
    re_prob: float = option(0.0, "probability of random erasing")
    re_scale: Tuple[float, ...] = option((0.02, 0.33), "random erasing: smallest and largest share of the area")
    re_ratio: Tuple[float, ...] = option((0.3, 3.3), "random erasing: smallest and largest aspect ratio")
    re_value: Any = option(0, "random erasing: pixel value after normalisation, one for each channel, or 'random'")
    re_max_attempts: int = option(10, "random erasing: tries to place the rectangle")
    mean: Optional[Tuple[float, ...]] = option(None, "channel means, on the scale 0 to 255; default: the model's own")
    std: Optional[Tuple[float, ...]] = option(
        None, "channel deviations, on the scale 0 to 255; default: the model's own"
    )
    crop_pct: Optional[float] = option(
        None, "validation: share of the resized image that is kept; default: the model's own"
    )
    crop_mode: Optional[str] = option(
        None,
        "validation: resize the shorter side and crop the middle, or both sides; default: the model's own",
        ("center", "squash"),
    )
    mixup: float = option(0.0, "mixup's alpha; 0 is off")
    cutmix: float = option(0.0, "cutmix's alpha; 0 is off")
    cutmix_prob: float = option(1.0, "probability that a batch is mixed")

    model: str = option("fastvit_t8", "name of a model of this project or of MindCV", group="Model")
    model_kwargs: Optional[Dict[str, Any]] = option(
        None, "further options of the model, such as alpha=0.2 or window_size=[7,7,4,2]; a mapping in YAML"
    )
    num_classes: Optional[int] = option(None, "classes; default: as many as the data set has")
    in_channels: int = option(3, "channels of the input")
    pretrained: bool = option(False, "start from MindCV's published weights")
    ckpt_path: str = option(
        "", "weights to start from, or to validate: a .ckpt of this project, or a PyTorch checkpoint of any kind"
    )
    use_ema: Optional[bool] = option(
        None, "whether to take ckpt_path's moving averages; default: as ema says, and a PyTorch checkpoint's weights"
    )
    new_head: bool = option(False, "training: leave the classifier of ckpt_path out, for another set of classes")
    freeze: Optional[Tuple[str, ...]] = option(
        None, "training: parameters that do not learn, by shell-style names such as 'patch_embed.*'"
    )
    freeze_backbone: bool = option(False, "training: only the classifier learns")
    drop_rate: Optional[float] = option(None, "dropout rate")
    drop_path_rate: Optional[float] = option(None, "stochastic depth rate of the last block")
    reparam: bool = option(False, "validation: fuse the network first (structural reparameterization)")
    amp_level: str = option(
        "O0",
        "mixed precision: O0 float32, O1 convolutions and matrices in float16, O2 all but norms, O3 all",
        ("O0", "O1", "O2", "O3"),
    )
    amp_cast_list: Optional[str] = option(
        None, "cells to cast with O1, or to keep with O2, such as '[nn.Dense, nn.Conv2d]'"
    )
    ema: bool = option(False, "keep a moving average of the weights; validation and the best checkpoint use it")
    ema_decay: float = option(0.9999, "decay of the moving average")
    ema_ramp: bool = option(True, "start with a smaller decay, ema_decay * (1 - exp(-step / 2000)), as MindCV does")
    clip_grad: bool = option(False, "clip the gradients' global norm, after they are averaged over devices")
    clip_value: float = option(15.0, "largest global norm of the gradients")
    gradient_accumulation_steps: int = option(1, "batches whose gradients are averaged into one update")
    dataset_sink_mode: bool = option(True, "accepted for MindCV's recipes; batches are always fed from the host")

    nan_policy: str = option(
        "stop",
        "when the loss or a weight is no longer finite: stop, or go back to the last saved state and on with the "
        "batches after, at most 3 times",
        ("stop", "rollback"),
    )
    stop_if_stuck: int = option(
        0, "stop when so many validations in a row gave the loss and top-1 of guessing; 0 never does"
    )
    sync_bn: bool = option(False, "batch normalisation over the images of all devices; on Ascend")

    epoch_size: int = option(90, "epochs to train", group="Checkpoints")
    resume: Optional[str] = option(
        None,
        "go on with a run: 'auto' with the newest whole state in ckpt_save_dir, if there is one; or the path of "
        "another run's folder or state file",
    )
    save_every: int = option(0, "steps between two saved states, beside the one of each epoch; 0 saves no others")
    ckpt_save_dir: str = option("./ckpt", "folder for checkpoints, results.csv and the resolved configuration")
    ckpt_save_interval: int = option(1, "epochs between two checkpoints")
    ckpt_save_policy: Optional[str] = option(
        "latest_k", "which numbered checkpoints to keep", ("top_k", "latest_k", "none")
    )
    keep_checkpoint_max: int = option(10, "how many numbered checkpoints to keep, beside best and last")

    opt: str = option("adam", "optimizer", OPTIMIZERS, group="Optimizer")
    momentum: float = option(0.9, "momentum, where the optimizer has one")
    weight_decay: float = option(1e-6, "weight decay")
    weight_decay_filter: str = option(
        "disable", "what weight decay spares: nothing, norms, or norms and biases", ("disable", "auto", "norm_and_bias")
    )
    layer_decay: Optional[float] = option(
        None, "learning rate factor from one layer to the one before it, the classifier having 1"
    )
    opt_betas: Optional[Tuple[float, ...]] = option(
        None, "the optimizer's two betas, for adam, adamw, lamb, lion, nadam and sophiag; default: the optimizer's own"
    )
    opt_eps: Optional[float] = option(
        None, "the optimizer's epsilon, for adamw, lamb and sophiag; default: the optimizer's own"
    )
    rho: float = option(0.04, "sophiag: the curvature counts this much against the momentum; less clips more")
    k: int = option(10, "sophiag: updates from one estimate of the curvature to the next")
    use_nesterov: bool = option(False, "Nesterov momentum")
    eps: float = option(1e-10, "added to the denominator by rmsprop")
    loss_scale_type: str = option("fixed", "loss scaling", ("fixed", "dynamic", "auto"))
    loss_scale: float = option(1.0, "loss scale, or the first one when it is dynamic")
    drop_overflow_update: bool = option(False, "skip an update whose gradients overflowed; dynamic scaling always does")

    scheduler: str = option("cosine_decay", "learning rate schedule", SCHEDULERS, group="Schedule")
    lr: float = option(0.001, "learning rate after the warm-up")
    min_lr: float = option(1e-6, "smallest learning rate after the warm-up")
    warmup_epochs: int = option(3, "epochs of linear warm-up")
    warmup_factor: float = option(0.0, "the warm-up starts at lr times this")
    warmup_prefix: bool = option(
        True, "the schedule starts after the warm-up; False: with the run, the warm-up replacing its beginning"
    )
    decay_epochs: int = option(100, "epochs over which cosine_decay decays, or after each of which step_decay does")
    decay_rate: float = option(
        0.9, "decay factor of the exponential, step, multi-step and plateau schedules; power of the polynomial one"
    )
    multi_step_decay_milestones: Tuple[int, ...] = option(
        (30, 60, 90), "epochs of the schedule at which multi_step_decay decays"
    )
    patience_epochs: int = option(10, "plateau: validations without a better top-1 before the learning rate decays")
    num_cycles: int = option(1, "cycles of cosine_decay")
    cycle_decay: float = option(1.0, "factor on the peak from one cycle to the next")
    lr_epoch_stair: bool = option(False, "change the learning rate once an epoch rather than every step")

    loss: str = option(
        "CE",
        "cross entropy or binary cross entropy",
        ("CE", "BCE", "ASL_single_label", "ASL_multi_label", "JSD"),
        group="Loss",
    )
    label_smoothing: float = option(0.0, "label smoothing")
    aux_factor: float = option(0.0, "weight of auxiliary logits")
    reduction: str = option("mean", "over the batch", ("mean", "sum"))

    distillation_type: str = option(
        "none",
        "learn from a teacher: the labels that it gives (hard), or its softened distribution (soft)",
        ("none", "soft", "hard"),
        group="Distillation",
    )
    distillation_alpha: float = option(0.5, "share of the teacher in the loss; 1 - alpha is the labels'")
    distillation_tau: float = option(1.0, "temperature of soft distillation")
    teacher_model: str = option(
        "regnet_y_16gf",
        "the teacher, a model of this project or of MindCV; it sees the student's images, with its size and mean",
    )
    teacher_path: str = option("", "the teacher's weights: a .ckpt or an official .safetensors, for as many classes")
    teacher_kwargs: Optional[Dict[str, Any]] = option(None, "further options of the teacher, as model_kwargs")
    mesa: float = option(0.0, "weight of self-distillation from the moving average (MESA); needs ema; 0 is off")
    mesa_start_ratio: float = option(0.25, "MESA starts when more than this share of the epochs is done")

    @property
    def averages(self) -> Optional[bool]:
        """What ``load_weights`` is to do about moving averages: as ``use_ema`` says; else, with ``ema``, take any."""
        return self.use_ema if self.use_ema is not None else None if self.ema else False


DATASETS = ("", "imagenet", "digits", "mnist", "cifar10", "cifar100")

# Older names in MindCV's recipes, and what they stand for.
_OLD_NAMES = {
    "filter_bias_and_bn": ("weight_decay_filter", {True: "norm_and_bias", False: "disable"}),
    "dynamic_loss_scale": ("loss_scale_type", {True: "dynamic", False: "fixed"}),
}
# Keys of MindCV's recipes that mean nothing here: its cloud service, and a validation type of its own.
_IGNORED = {"enable_modelarts", "multi_data_url", "data_url", "ckpt_url", "train_url", "val_amp_level", "resume_opt"}


def parse_options(description: str, arguments: Optional[Sequence[str]] = None, cls: Type[T] = Options) -> T:
    """The options that a command line gives, with its YAML file and the defaults behind it.

    Args:
        cls: :class:`Options`, or a script's own extension of it.

    Raises:
        InputError: an unknown key, a value of the wrong type or not among the choices, or no readable YAML file.
    """
    options = parse(cls, description, arguments, lambda path: _read_yaml(path, [f.name for f in fields(cls)]))
    _check(options)
    return options


def save_options(options: Options, path: Path) -> None:
    """Write the resolved options as a YAML file that ``--config`` takes."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(options).items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def _read_yaml(path, known) -> Dict[str, Any]:
    """The values of a YAML file, over those of the file beside it that its key ``base`` names, if there is one."""
    values = _read_mapping(path, known)
    if "base" not in values:
        return values
    base = Path(path).parent / str(values.pop("base"))
    below = _read_mapping(base, known)
    if "base" in below:
        raise InputError(f"{base} is a base, but has a base itself: name {below['base']} in {path}.")
    return {**below, **values}


def _read_mapping(path, known):
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(
            f"cannot read the configuration {path} ({error.strerror}): give the path of a YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(f"{path}{line} is not YAML: write one `key: value` a line.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a YAML mapping: write one `key: value` a line.")
    resolved = {}
    for key, value in values.items():
        if key in _IGNORED:
            continue
        if key in _OLD_NAMES:
            key, meaning = _OLD_NAMES[key]
            value = meaning[bool(value)]
        if key not in known and key != "base":
            raise InputError(f"{path}: unknown key {key!r}: {nearest(str(key), known, 'see train.py --help.')}")
        resolved[key] = value
    return resolved


def _check(options: Options) -> None:
    """Refuse values that could not work together, before anything is built."""
    for name in ("batch_size", "epoch_size", "num_parallel_workers", "gradient_accumulation_steps", "log_interval",
                 "val_interval", "ckpt_save_interval"):  # fmt: skip
        if getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}, but must be at least 1.")
    for name in ("scale", "ratio", "re_scale", "re_ratio"):
        if len(getattr(options, name)) != 2:
            raise InputError(f"{name} is {show(list(getattr(options, name)))}, but must be two numbers, low and high.")
    if options.dataset.lower() not in DATASETS:
        hint = nearest(options.dataset, DATASETS, f"choose from {', '.join(DATASETS[1:])}, or '' for an image folder.")
        raise InputError(f"dataset is {options.dataset!r}, which is not known: {hint}")
    check_preparation(options)
    _check_augmentation(options)
    if options.loss_scale < 1:
        raise InputError(f"loss_scale is {options.loss_scale}, but must be at least 1.")
    for name in ("save_every", "stop_if_stuck"):
        if getattr(options, name) < 0:
            raise InputError(f"{name} is {getattr(options, name)}, but must be at least 0.")
    if options.stop_if_stuck and not options.val_while_train:
        raise InputError("stop_if_stuck goes by validation: set val_while_train to True.")
    if options.ckpt_save_policy == "top_k" and not options.val_while_train:
        raise InputError("ckpt_save_policy top_k ranks checkpoints by validation: set val_while_train to True.")
    _check_optimizer(options)
    _check_schedule(options)
    _check_objective(options)


def check_preparation(options) -> None:
    """Refuse values by which no image could be made ready for a network.

    Args:
        options: :class:`Options`, or others with ``num_classes``, ``in_channels``, ``image_resize``, ``crop_pct``,
            ``mean`` and ``std``.

    Raises:
        InputError: naming the option.
    """
    for name in ("num_classes", "in_channels"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"{name} is {getattr(options, name)}, but must be at least 1.")
    if options.image_resize is not None and (len(options.image_resize) not in (1, 2) or min(options.image_resize) < 1):
        raise InputError(
            f"image_resize is {show(list(options.image_resize))}, but must be one size, or height and width."
        )
    for name, low in (("mean", 0), ("std", 1e-6)):
        values = getattr(options, name)
        if values is not None and not (len(values) == options.in_channels and all(low <= v <= 255 for v in values)):
            raise InputError(
                f"{name} is {show(list(values))}, but must be {options.in_channels} numbers, one for each channel, "
                f"{'above 0' if low else 'from 0'} to 255."
            )
    if options.crop_pct is not None and not 0 < options.crop_pct <= 1:
        raise InputError(f"crop_pct is {options.crop_pct}, but must be above 0 and at most 1.")


def _check_augmentation(options: Options) -> None:
    for name in ("hflip", "vflip", "re_prob", "cutmix_prob"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(f"{name} is {getattr(options, name)}, but a probability is from 0 to 1.")
    for name in ("mixup", "cutmix", "aug_repeats", "seed"):
        if getattr(options, name) < 0:
            raise InputError(f"{name} is {getattr(options, name)}, but must not be negative.")
    for name in ("scale", "ratio", "re_scale", "re_ratio"):
        low, high = getattr(options, name)
        if not 0 < low <= high:
            raise InputError(f"{name} is {low} {high}, but must be positive, the smaller number first.")
    if len(options.color_jitter or (0,)) not in (1, 3):
        raise InputError(
            f"color_jitter is {show(list(options.color_jitter))}, but must be one strength, or three: for brightness, "
            "contrast and saturation."
        )
    values = options.re_value if isinstance(options.re_value, (list, tuple)) else [options.re_value]
    numbers = all(isinstance(value, (int, float)) for value in values)
    if options.re_value != "random" and not (numbers and len(values) in (1, options.in_channels)):
        raise InputError(f"re_value is {options.re_value!r}, but must be a number, one for each channel, or random.")
    if options.val_ratio is not None and not 0 < options.val_ratio < 1:
        raise InputError(f"val_ratio is {options.val_ratio}, but must be between 0 and 1.")
    if options.num_samples is not None and options.num_samples < 1:
        raise InputError(f"num_samples is {options.num_samples}, but must be at least 1.")


def _check_optimizer(options):
    betas = options.opt_betas
    if betas is not None and (len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
        raise InputError(f"opt_betas is {show(list(betas))}, but must be two numbers from 0 to below 1.")
    for name in ("opt_eps", "rho"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            raise InputError(f"{name} is {getattr(options, name)}, but must be above 0.")
    if options.k < 1:
        raise InputError(f"k is {options.k}, but must be at least 1.")
    if options.layer_decay is not None and not 0 < options.layer_decay <= 1:
        raise InputError(f"layer_decay is {options.layer_decay}, but must be above 0 and at most 1.")


def _check_schedule(options):
    name = options.scheduler
    if name in ("one_cycle", "cyclic") and (options.warmup_epochs or options.lr_epoch_stair):
        raise InputError(
            f"{name} has its own warm-up in every step: set warmup_epochs to 0 and lr_epoch_stair to False."
        )
    if options.lr <= 0 or options.min_lr < 0:
        raise InputError(f"lr is {options.lr} and min_lr {options.min_lr}, but must be above 0, and 0 or above.")
    if options.warmup_epochs < 0 or options.decay_epochs < 1:
        raise InputError(
            f"warmup_epochs is {options.warmup_epochs} and decay_epochs {options.decay_epochs}, but must be at least 0 "
            "and 1."
        )
    if name == "plateau":
        if not options.val_while_train:
            raise InputError("scheduler plateau goes by validation: set val_while_train to True.")
        if not 0 < options.decay_rate < 1:
            raise InputError(f"decay_rate is {options.decay_rate}, but plateau needs one between 0 and 1.")
        if options.patience_epochs < 0:
            raise InputError(f"patience_epochs is {options.patience_epochs}, but must be at least 0.")


def _check_objective(options):
    for name in ("label_smoothing", "distillation_alpha", "mesa_start_ratio"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(f"{name} is {getattr(options, name)}, but must be from 0 to 1.")
    if options.distillation_tau <= 0:
        raise InputError(f"distillation_tau is {options.distillation_tau}, but must be above 0.")
    if options.distillation_type != "none" and not options.teacher_path:
        raise InputError(
            f"distillation_type is {options.distillation_type}, but teacher_path is empty: give the weights of "
            f"{options.teacher_model}, since an untrained teacher has nothing to teach."
        )
    if options.mesa < 0:
        raise InputError(f"mesa is {options.mesa}, but must be at least 0.")
    if options.mesa and not options.ema:
        raise InputError(f"mesa is {options.mesa}, but learns from the moving average: set ema to True.")
    if options.loss == "BCE" and options.aux_factor:
        raise InputError("MindCV's BCE leaves auxiliary logits out: set aux_factor to 0, or loss to CE.")

"""Options of the network: which it is, its weights, and its precision."""

from dataclasses import dataclass, fields
from typing import Any, Dict, Iterable, Optional, Tuple

from ..errors import InputError
from ..pretrained import Source, choose_weights
from .groups import Group, option

__all__ = [
    "AmpLevel",
    "Averages",
    "LossScale",
    "Model",
    "MovingAverage",
    "Precision",
    "Published",
    "TrainedModel",
    "Weights",
    "check_kwargs",
]

# What create_model is given by options of their own; and MindCV's own way to load a file, past this project's reader.
_TAKEN = {
    "model_name": "model", "num_classes": "num_classes", "in_channels": "in_channels", "pretrained": "pretrained",
    "pretrained_torch": "ckpt_path", "checkpoint_path": "ckpt_path", "use_ema": "use_ema", "drop_rate": "drop_rate",
    "drop_path_rate": "drop_path_rate",
}  # fmt: skip


def check_kwargs(name: str, kwargs: Optional[Dict[str, Any]], others: Iterable[str] = ()) -> None:
    """Refuse a mapping of model options that has what an option of its own is for.

    Args:
        others: names of such options, beside those that every model has.

    Raises:
        InputError: naming the other option.
    """
    taken = {**{other: other for other in others}, **_TAKEN}
    for key in kwargs or ():
        if key in taken:
            raise InputError(f"{name} has {key}: leave it out there, and use the option {taken[key]}.")


@dataclass
class Model(Group):
    """The network."""

    title = "Model"

    model: str = option(
        "fastvit_t8",
        "name of a model of this project or of MindCV; with a tag of its published weights, such as "
        "fastvit_sa12.dist_in1k",
        also=("arch", "model_name", "network"),
    )
    model_kwargs: Optional[Dict[str, Any]] = option(
        None,
        "further options of the model, such as alpha=0.2 or window_size=[7,7,4,2]; a mapping in YAML",
        also=("model_args",),
    )
    num_classes: Optional[int] = option(
        None, "classes; default: as many as the data set has", at_least=1, also=("nb_classes", "n_classes", "classes")
    )
    in_channels: int = option(3, "channels of the input", at_least=1, also=("in_chans", "channels"))

    @property
    def network_options(self) -> Dict[str, Any]:
        """What ``create_model`` gets beside what every model gets; None leaves the model's default."""
        return {}

    def check(self) -> None:
        check_kwargs("model_kwargs", self.model_kwargs, self.network_options)


@dataclass
class Published(Group):
    """The official weights of a model, by its name."""

    title = "Model"

    pretrained: bool = option(
        False, "start from the published weights of the model, downloaded once; ckpt_path takes their place"
    )
    pretrained_tag: Optional[str] = option(
        None, "which of the model's published weights, such as dist_in1k; default: the tag in model, or the first one"
    )
    pretrained_file: Optional[str] = option(
        None, "the published weights as a file that is here; nothing is downloaded", path=True
    )
    pretrained_cache: Optional[str] = option(
        None, "folder of downloaded weights; default: MINDCV_MODELS_CACHE, or ~/.cache/mindcv_models/weights", path=True
    )
    pretrained_mirror: Optional[str] = option(
        None, "server to download weights from instead of the published ones; default: MINDCV_MODELS_MIRROR"
    )

    @property
    def source(self) -> Source:
        """Where the published weights come from."""
        return Source(self.pretrained_cache, self.pretrained_mirror, self.pretrained_file)

    @property
    def wants_published(self) -> bool:
        """Whether the weights are the published ones."""
        return bool((self.pretrained or self.pretrained_file) and not getattr(self, "ckpt_path", None))

    @property
    def tagged_model(self) -> str:
        """The model's name with the tag."""
        return f"{self.model}.{self.pretrained_tag}" if self.pretrained_tag else self.model

    def settle(self) -> None:
        """Part the model's name from its tag, and give the model the options that the weights were trained with."""
        model, _, tag = self.model.partition(".")
        self.model, self.pretrained_tag = model, tag or self.pretrained_tag
        if not self.pretrained_tag:
            return
        own, kwargs = {f.name: f.default for f in fields(self)}, dict(self.model_kwargs or {})
        given = {name: getattr(self, name) for name, default in own.items() if getattr(self, name) != default}
        for key, value in choose_weights(self.tagged_model, {**given, **kwargs})[1].options.items():
            if key in own:  # a detector's backbone, say
                setattr(self, key, value)
            else:
                kwargs[key] = value
        self.model_kwargs = kwargs or None

    def require_weights(self, purpose: str) -> None:
        """Refuse options that name no weights.

        Raises:
            InputError: naming the options.
        """
        if not (getattr(self, "ckpt_path", None) or self.wants_published):
            raise InputError(
                f"ckpt_path is missing: give --ckpt_path the checkpoint to {purpose}, or --pretrained True for the "
                "official weights."
            )


@dataclass
class Weights(Published):
    """The checkpoint that a network is filled from."""

    title = "Model"

    ckpt_path: str = option(
        "", "weights to start from: a .ckpt of this project, or a PyTorch checkpoint of any kind", path=True,
        also=("checkpoint", "checkpoint_path", "initial_checkpoint", "weights", "finetune", "load_from", "model_path"),
    )  # fmt: skip
    use_ema: Optional[bool] = option(
        None, "whether to take ckpt_path's moving averages; default: as ema says, and a PyTorch checkpoint's weights"
    )

    @property
    def load_ema(self) -> Optional[bool]:
        """What ``load_weights`` is to do about moving averages: True takes them, None takes any, False none."""
        return bool(self.use_ema)


@dataclass
class Averages(Weights):
    """A checkpoint of a run whose moving averages count, where there are any."""

    title = "Model"

    ema: bool = option(
        False, "keep a moving average of the weights; validation, the best checkpoint and prediction use it",
        also=("model_ema",),
    )  # fmt: skip

    @property
    def load_ema(self) -> Optional[bool]:
        """As ``use_ema`` says; else, with ``ema``, take any."""
        return self.use_ema if self.use_ema is not None else None if self.ema else False


@dataclass
class MovingAverage(Averages):
    """How the moving average is kept in training."""

    title = "Model"

    ema_decay: float = option(0.9999, "decay of the moving average", at_least=0, below=1, also=("model_ema_decay",))
    ema_ramp: bool = option(True, "start with a smaller decay, ema_decay * (1 - exp(-step / 2000)), as MindCV does")


@dataclass
class TrainedModel(Group):
    """The network while it is trained."""

    title = "Model"

    new_head: bool = option(False, "leave the classifier of ckpt_path out, for another set of classes")
    freeze: Optional[Tuple[str, ...]] = option(
        None, "parameters that are not trained, by shell-style names such as 'patch_embed.*'"
    )
    freeze_backbone: bool = option(
        False, "train the classifier only; of detectors and segmenters, all but the backbone"
    )
    drop_rate: Optional[float] = option(None, "dropout rate", at_least=0, below=1, also=("drop", "dropout"))
    drop_path_rate: Optional[float] = option(
        None, "stochastic depth rate of the last block", at_least=0, below=1, also=("drop_path", "stochastic_depth")
    )
    sync_bn: bool = option(False, "batch normalisation over the images of all devices; on Ascend", also=("syncbn",))


@dataclass
class AmpLevel(Group):
    """How much is computed in float16."""

    title = "Precision"

    amp_level: str = option(
        "O0", "mixed precision: O0 float32, O1 convolutions and matrices in float16, O2 all but norms, O3 all",
        ("O0", "O1", "O2", "O3"), also=("amp", "fp16", "half", "mixed_precision", "apex_amp", "native_amp"),
    )  # fmt: skip


@dataclass
class Precision(AmpLevel):
    """Mixed precision."""

    title = "Precision"

    amp_cast_list: Optional[str] = option(
        None, "cells to cast with O1, or to keep with O2, such as '[nn.Dense, nn.Conv2d]'"
    )


@dataclass
class LossScale(Group):
    """What keeps small gradients from vanishing in float16."""

    title = "Precision"

    loss_scale_type: str = option("fixed", "loss scaling", ("fixed", "dynamic", "auto"))
    loss_scale: float = option(1.0, "loss scale, or the first one when it is dynamic", at_least=1)
    drop_overflow_update: bool = option(False, "skip an update whose gradients overflowed; dynamic scaling always does")

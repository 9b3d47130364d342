"""Options of what moves the weights: the optimizer and its learning rates."""

from dataclasses import dataclass
from typing import Optional, Tuple

from ..errors import InputError
from .groups import Group, check_pair, option
from .run import Epochs

__all__ = ["OPTIMIZERS", "SCHEDULERS", "Optimizer", "Schedule"]

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
class Optimizer(Group):
    """How gradients become updates."""

    title = "Optimizer"

    opt: str = option("adam", "optimizer", OPTIMIZERS, also=("optimizer", "optim"))
    momentum: float = option(0.9, "momentum, where the optimizer has one", at_least=0, below=1, also=("opt_momentum",))
    weight_decay: float = option(1e-6, "weight decay", at_least=0, also=("wd", "decay"))
    weight_decay_filter: str = option(
        "disable", "what weight decay spares: nothing, norms, or norms and biases", ("disable", "auto", "norm_and_bias")
    )
    layer_decay: Optional[float] = option(
        None, "learning rate factor from one layer to the one before it, the classifier having 1", above=0, at_most=1,
        also=("layer_lr_decay", "lr_layer_decay"),
    )  # fmt: skip
    opt_betas: Optional[Tuple[float, ...]] = option(
        None, "the optimizer's two betas, for adam, adamw, lamb, lion, nadam and sophiag; default: the optimizer's own",
        example="0.9 0.999", at_least=0, below=1, also=("betas",),
    )  # fmt: skip
    opt_eps: Optional[float] = option(
        None, "the optimizer's epsilon, for adamw, lamb and sophiag; default: the optimizer's own", above=0,
        also=("epsilon",),
    )  # fmt: skip
    sophia_rho: float = option(
        0.04, "sophiag: scale of the curvature in the update's denominator; smaller values clip more", above=0,
        also=("rho",),
    )  # fmt: skip
    sophia_k: int = option(10, "sophiag: updates between two estimates of the curvature", at_least=1, also=("k",))
    use_nesterov: bool = option(False, "Nesterov momentum", also=("nesterov",))
    eps: float = option(1e-10, "added to the denominator by rmsprop", at_least=0)
    clip_grad: bool = option(
        False, "clip the gradients' global norm, after they are averaged over devices",
        example="True; clip_value is the norm",
    )  # fmt: skip
    clip_value: float = option(
        15.0, "largest global norm of the gradients", above=0, also=("clip_norm", "max_norm", "max_grad_norm")
    )
    gradient_accumulation_steps: int = option(
        1, "batches whose gradients are averaged into one update", at_least=1,
        also=("grad_accum_steps", "accumulation_steps", "accum_iter", "update_freq"),
    )  # fmt: skip
    dataset_sink_mode: bool = option(True, "accepted for MindCV's recipes; batches are always fed from the host")

    def check(self) -> None:
        check_pair(self, "opt_betas")


@dataclass
class Schedule(Epochs):
    """The learning rate of every update."""

    title = "Schedule"

    scheduler: str = option(
        "cosine_decay", "learning rate schedule", SCHEDULERS, also=("sched", "lr_scheduler", "lr_schedule", "lr_policy")
    )
    lr: float = option(0.001, "learning rate after the warm-up", above=0, also=("learning_rate", "base_lr"))
    min_lr: float = option(1e-6, "smallest learning rate after the warm-up", at_least=0, also=("lr_min",))
    warmup_epochs: int = option(3, "epochs of linear warm-up", at_least=0, also=("warmup",))
    warmup_steps: int = option(
        0, "optimizer steps of linear warm-up, instead of epochs: set warmup_epochs to 0", at_least=0,
        also=("warmup_iters", "warmup_iterations", "warmup_updates"),
    )  # fmt: skip
    warmup_factor: float = option(0.0, "the warm-up starts at lr times this", at_least=0, also=("warmup_lr",))
    warmup_prefix: bool = option(
        True,
        "the schedule starts after the warm-up; False: it starts at step 0, and the warm-up overrides its beginning",
    )
    decay_epochs: int = option(
        100, "epochs over which cosine_decay decays, or after each of which step_decay does", at_least=1
    )
    decay_rate: float = option(
        0.9, "decay factor of the exponential, step, multi-step and plateau schedules; power of the polynomial ones",
        above=0,
    )  # fmt: skip
    multi_step_decay_milestones: Tuple[int, ...] = option(
        (30, 60, 90), "epochs of the schedule at which multi_step_decay decays", example="30 60 90", at_least=0,
        also=("decay_milestones", "milestones"),
    )  # fmt: skip
    patience_epochs: int = option(
        10, "plateau: validations without a better score before the learning rate decays", at_least=0
    )
    num_cycles: int = option(1, "cycles of cosine_decay", at_least=1, also=("lr_cycle_limit",))
    cycle_decay: float = option(1.0, "factor on the peak from one cycle to the next", above=0, also=("lr_cycle_decay",))
    lr_epoch_stair: bool = option(False, "change the learning rate once per epoch rather than every step")

    def check(self) -> None:
        if self.min_lr > self.lr:
            raise InputError(
                f"min_lr is {self.min_lr:g}, above lr, {self.lr:g}: every rate would be min_lr; lower it, or use 0."
            )
        if self.warmup_epochs and self.warmup_steps:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs} and warmup_steps {self.warmup_steps}: set one of them to 0."
            )
        if self.scheduler in ("one_cycle", "cyclic") and (
            self.warmup_epochs or self.warmup_steps or self.lr_epoch_stair
        ):
            raise InputError(
                f"{self.scheduler} has its own warm-up in every step: set warmup_epochs and warmup_steps to 0 and "
                "lr_epoch_stair to False."
            )
        if self.scheduler == "plateau":
            self.needs_validation("scheduler plateau goes")
            if self.decay_rate >= 1:
                raise InputError(f"decay_rate is {self.decay_rate}, but plateau needs one between 0 and 1.")

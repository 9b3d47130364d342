"""Options of a training run: its batches, epochs, checkpoints, and when it ends early."""

from dataclasses import dataclass
from typing import Optional

from ..errors import InputError
from .groups import Group, option

__all__ = ["Batches", "Checkpoints", "Epochs", "Safety", "TrainBatches"]


@dataclass
class Batches(Group):
    """How images become batches."""

    title = "Data"

    batch_size: int = option(128, "images per step and device", at_least=1, also=("b", "bs", "batch"))
    num_parallel_workers: int = option(
        8, "threads that decode and augment images, at most the machine's cores", at_least=1,
        also=("workers", "num_workers", "j"),
    )  # fmt: skip


@dataclass
class TrainBatches(Batches):
    """Which images an epoch of training sees, and in which order."""

    title = "Data"

    shuffle: bool = option(True, "shuffle the training images each epoch")
    check_data: bool = option(
        False, "only look at the data: a table of what would be trained on, what is left out and why, classes, sizes "
        "and unreadable files", also=("dry_run", "verify_data"),
    )  # fmt: skip
    num_samples: Optional[int] = option(None, "train on this many images only", at_least=1)
    drop_remainder: bool = option(True, "drop the last training batch if it is not full", also=("drop_last",))


@dataclass
class Epochs(Group):
    """How long a run is, and when it validates."""

    title = "Epochs"

    epoch_size: int = option(90, "epochs to train", at_least=1, also=("epochs", "num_epochs", "max_epochs", "n_epochs"))
    steps_per_epoch: Optional[int] = option(
        None, "batches in an epoch, however many images there are; default: each image once", at_least=1,
        also=("iters_per_epoch", "epoch_length"),
    )  # fmt: skip
    val_while_train: bool = option(False, "validate during training")
    val_interval: int = option(1, "epochs between two validations", at_least=1, also=("eval_interval", "eval_freq"))

    def needs_validation(self, what: str) -> None:
        """Refuse that ``what``, such as "early_stopping goes", has no validation to go by."""
        if not self.val_while_train:
            raise InputError(f"{what} by validation: set val_while_train to True.")


@dataclass
class Checkpoints(Epochs):
    """What a run leaves on disk, and what it resumes from."""

    title = "Checkpoints"

    resume: Optional[str] = option(
        None, "resume a run: 'auto' from the newest whole state in ckpt_save_dir, if there is one; or the path of "
        "another run's folder or state file", path=True,
    )  # fmt: skip
    save_every: int = option(
        0, "steps between two saved states, beside the one of each epoch; 0 saves no others", at_least=0
    )
    ckpt_save_dir: str = option(
        "./ckpt", "folder for checkpoints, results.csv and the resolved configuration", path=True,
        also=("output", "output_dir", "out_dir", "work_dir", "save_dir", "experiment"),
    )  # fmt: skip
    ckpt_save_interval: int = option(
        1, "epochs between two checkpoints", at_least=1, also=("save_interval", "save_freq", "save_period")
    )
    ckpt_save_policy: Optional[str] = option(
        "latest_k", "which numbered checkpoints to keep", ("top_k", "latest_k", "none")
    )
    keep_checkpoint_max: int = option(
        10, "how many numbered checkpoints to keep, beside best and last", at_least=0,
        also=("checkpoint_hist", "save_total_limit"),
    )  # fmt: skip

    def check(self) -> None:
        if self.ckpt_save_policy == "top_k":
            self.needs_validation("ckpt_save_policy top_k ranks checkpoints")


@dataclass
class Safety(Epochs):
    """When a run ends before its last epoch."""

    title = "Safety"

    nan_policy: str = option(
        "stop", "when the loss or a weight becomes infinite or NaN: stop, or restore the last saved state and continue "
        "with the next batches, at most 3 times", ("stop", "rollback"),
    )  # fmt: skip
    stop_if_stuck: int = option(
        0, "stop after this many consecutive validations at chance level; 0 disables the check", at_least=0
    )
    early_stopping: int = option(
        0, "stop after this many validations without a better score; 0 never does", at_least=0,
        also=("patience", "early_stop", "early_stopping_patience"),
    )  # fmt: skip

    def check(self) -> None:
        for name in ("stop_if_stuck", "early_stopping"):
            if getattr(self, name):
                self.needs_validation(f"{name} goes")

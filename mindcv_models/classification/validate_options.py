"""The options that ``validate.py`` has beside those of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

from ..errors import InputError
from ..options import Options, option
from .imagenet import BENCHMARKS
from .predict import VIEWS

__all__ = ["ValidateOptions"]


@dataclass
class ValidateOptions(Options):
    """Options of training, of which those of data, model and precision matter, and of validation."""

    ckpt_path: Tuple[Path, ...] = option((), "checkpoints to validate: .ckpt of this project, or official .safetensors")
    average: bool = option(False, "validate the average of the checkpoints' weights", group="Validation")
    average_path: Optional[str] = option(None, "save the averaged weights here")
    benchmark: Optional[str] = option(
        None, "what the folder is, if its classes are not the network's; val_split, or data_dir for -c", BENCHMARKS
    )
    real_labels: Optional[str] = option(None, "ImageNet's reassessed labels, the file real.json: adds their accuracy")
    tta: str = option("none", "test-time augmentation: views whose probabilities are averaged", tuple(VIEWS))
    report_dir: Optional[str] = option(
        None, "folder for the table as CSV and Markdown, and for each checkpoint's report, predictions and pictures"
    )

    @property
    def looks_at_each_image(self) -> bool:
        """Whether anything needs more than the totals over all images."""
        return bool(self.benchmark or self.real_labels or self.report_dir or self.tta != "none")

    def check(self) -> None:
        """Refuse what could not work together.

        Raises:
            InputError: naming the option.
        """
        if not self.ckpt_path:
            raise InputError("ckpt_path is missing: give --ckpt_path the checkpoint to validate.")
        if self.average and len(self.ckpt_path) < 2:
            raise InputError("average is True, but ckpt_path is one checkpoint: give it two or more.")
        if self.average_path and not self.average:
            raise InputError("average_path is given, but average is False: set it to True.")
        if self.average_path and not Path(self.average_path).absolute().parent.is_dir():
            raise InputError(f"average_path is {self.average_path}, but there is no folder for it: make it first.")
        if self.average_path and Path(self.average_path).is_dir():
            raise InputError(f"average_path is {self.average_path}, which is a folder: give the file to write.")
        if self.benchmark and self.num_classes not in (None, 1000):
            raise InputError(f"num_classes is {self.num_classes}, but {self.benchmark} needs 1000: leave it out.")
        if self.real_labels and self.benchmark not in (None, "imagenet"):
            raise InputError(f"real_labels are ImageNet's own: leave --benchmark {self.benchmark} out.")

"""Convert a PyTorch checkpoint for this project, or back, without PyTorch.

python convert_torch_weights.py --model fastvit_t8 --torch_path fastvit_t8.pth.tar --output fastvit_t8.ckpt
python convert_torch_weights.py --model fastvit_t8 --torch_path fastvit_t8.pth.tar --output t8_10.ckpt --num_classes 10
python convert_torch_weights.py --model retinanet --backbone litv2_s --torch_path retinanet_litv2_s.pth --output r.ckpt
python convert_torch_weights.py --model fastvit_t8 --to_torch fastvit_t8.ckpt --output fastvit_t8.safetensors
python convert_torch_weights.py --list fastvit_t8.pth.tar
"""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import prologue

if __name__ == "__main__":
    prologue.begin()

from mindcv_models.checkpoint.convert import (
    DTYPES,
    NAMES,
    Conversion,
    convert_checkpoint,
    export_to_torch,
    verify_logits,
)
from mindcv_models.checkpoint.listing import list_file
from mindcv_models.errors import InputError
from mindcv_models.files import refuse_overwriting
from mindcv_models.options import Group, check_kwargs, option, parse
from mindcv_models.process import run

logger = logging.getLogger("convert_torch_weights")


@dataclass
class Files(Group):
    """What is converted."""

    title = "Files"

    model: str = option("", "name of the model", also=("arch", "model_name"))
    torch_path: str = option(
        "", "PyTorch checkpoint: .pth, .pt, .bin, .pth.tar, old or new, or .safetensors", path=True,
        also=("ckpt_path", "checkpoint", "input"),
    )  # fmt: skip
    to_torch: str = option("", "the other way: checkpoint of this project, to official names as safetensors", path=True)
    output: str = option(
        "", "file to write: .ckpt has MindSpore's names, .safetensors the official ones", path=True, also=("out",)
    )
    list: str = option("", "print the names, shapes and types in this file, and do nothing else", path=True)


@dataclass
class Contents(Group):
    """What of the checkpoint is written, and how."""

    title = "What to write"

    use_ema: bool = option(False, "take the moving averages in the checkpoint", also=("ema",))
    num_classes: Optional[int] = option(
        None, "classes; another number than the checkpoint's gets a new classifier", at_least=0, also=("nb_classes",)
    )
    reparam: bool = option(False, "write the inference form; with --to_torch, the file holds it")
    dtype: str = option("float32", "type of the weights", DTYPES)
    names: str = option("official", "names in a .safetensors file; timm's for FastViT", NAMES)


@dataclass
class ModelOptions(Group):
    """Options that change the network's parameters."""

    title = "Model"

    backbone: Optional[str] = option(None, "detectors and segmenters: name of the model below the heads")
    resolution: Optional[Tuple[int, ...]] = option(
        None, "FasterViT: image side, or height and width", at_least=1, example="224, or 576 960",
        also=("image_resize", "img_size", "input_size"),
    )  # fmt: skip
    window_size: Optional[Tuple[int, ...]] = option(
        None, "FasterViT: window side of each level; LITv2: of stage 3", at_least=1, example="7 7 7 7"
    )
    ct_size: Optional[int] = option(None, "FasterViT: side of a window's square of carrier tokens", at_least=1)
    dim: Optional[int] = option(None, "FasterViT: width of the first level", at_least=1)
    model_kwargs: Optional[Dict[str, Any]] = option(
        None, "further options of the model, such as features_only=True dense=detection"
    )

    def check(self) -> None:
        check_kwargs("model_kwargs", self.model_kwargs)


@dataclass
class ConvertOptions(Files, Contents, ModelOptions):
    """The options of ``convert_torch_weights.py``."""

    title = "Check"

    verify: str = option("", ".npz file with images and logits that the result must reproduce", path=True)
    tolerance: float = option(1e-4, "largest difference of logits, as a share of the largest logit", at_least=0)

    def check(self) -> None:
        if self.list:
            return
        for name in ("model", "output"):
            if not getattr(self, name):
                raise InputError(
                    f"{name} is missing: give --{name}. `convert_torch_weights.py --help` lists the options."
                )
        if bool(self.torch_path) == bool(self.to_torch):
            raise InputError(
                "give either --torch_path, the checkpoint to convert, or --to_torch, the one to convert back."
            )
        refuse_overwriting(self.output, "output", self.torch_path, self.to_torch, self.verify)
        if Path(self.output).suffix not in (".ckpt", ".safetensors"):
            raise InputError(f"output is {self.output}: give it the ending .ckpt or .safetensors.")


def main():
    options = parse(ConvertOptions, __doc__)
    if options.list:
        for line in list_file(options.list):
            print(line)
        return
    output = Path(options.output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C, with nothing half-written
    conversion = Conversion(
        options.model, options.num_classes, options.reparam, options.dtype, options.use_ema, model_options(options),
        options.names,
    )  # fmt: skip
    if options.to_torch:
        export_to_torch(options.to_torch, output, conversion)
    else:
        verify = verify_logits(options.verify, options.tolerance) if options.verify else None
        convert_checkpoint(options.torch_path, output, conversion, verify)


def model_options(options: ModelOptions) -> Dict[str, Any]:
    """The options that go to the model."""
    values = dict(options.model_kwargs or {})
    for name in ("backbone", "resolution", "window_size", "ct_size", "dim"):
        value = getattr(options, name)
        if isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        if value is not None:
            values[name] = value
    return values


if __name__ == "__main__":
    run(main)

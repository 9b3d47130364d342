"""Options of ``export.py`` for every task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..options import Weights, option
from . import check_format

__all__ = ["ExportedFile"]


@dataclass
class ExportedFile(Weights):
    """The file to write, and the weights in it."""

    title = "File"

    output: str = option("", "file to write; .onnx or .mindir says which format", path=True)
    batch_size: Optional[int] = option(None, "images per batch; default: any number", at_least=1)
    reparam: bool = option(True, "fuse the network first (structural reparameterization)", also=("reparameterize",))

    def check(self) -> None:
        self.require_weights("export")
        check_format(Path(self.output))

"""The option group of models that stand on a backbone."""

from dataclasses import dataclass
from typing import Any, Dict, Optional

from .groups import option
from .model import Model

__all__ = ["Backbone"]


@dataclass
class Backbone(Model):
    """The network below a detector's or a segmenter's head."""

    title = "Model"

    backbone: str = option("litv2_s", "model whose feature maps are used: any of this project's, or MindCV's")
    backbone_path: str = option(
        "", "checkpoint that the backbone starts from: a classifier's or a detector's, .ckpt or PyTorch", path=True
    )
    window_size: Optional[int] = option(None, "window of LITv2's attention in stage 3; default: 2", at_least=1)

    @property
    def network_options(self) -> Dict[str, Any]:
        return {"backbone": self.backbone, "window_size": self.window_size}

"""FastViT, FasterViT and LITv2 for MindSpore. Importing this registers every model in MindCV's registry."""

import logging
from typing import Optional

from mindcv.models.registry import get_pretrained_cfg
from mindspore import nn

from . import models
from .checkpoint import load_torch_checkpoint
from .models import list_models
from .reparameterize import reparameterize

__all__ = ["create_model", "list_models", "load_torch_checkpoint", "reparameterize"]

__version__ = "0.1.0"  # the package's version is stated here alone

logger = logging.getLogger(__name__)


def create_model(
    model_name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    pretrained_torch: Optional[str] = None,
    use_ema: bool = False,
    **kwargs,
) -> nn.Cell:
    """Build a model of this project or of MindCV by name, and load a PyTorch checkpoint into it.

    Args:
        num_classes: width of the classifier; 0 leaves it out.
        in_channels: channels of the input images.
        pretrained_torch: official or timm checkpoint to start from, a file of ``torch.save`` or safetensors. Where it
            has another number of classes, the classifier keeps its initial values, and the log says so.
        use_ema: take the moving averages that ``pretrained_torch`` holds.
        **kwargs: the model's own options, such as ``drop_path_rate`` or ``features_only`` with ``out_indices``;
            None leaves an option at its default.

    Raises:
        InputError: no model has that name, or it does not know an option, or the checkpoint does not fit.
    """
    network = models.create_model(model_name, num_classes, in_channels, **kwargs)
    if pretrained_torch:
        head = get_pretrained_cfg(model_name).get("classifier")
        report = load_torch_checkpoint(network, pretrained_torch, head, use_ema, keep_if_equal=True)
        logger.info("loaded the PyTorch checkpoint %s: %s", pretrained_torch, report)
    return network

"""Models by name, with the weights that are asked for."""

from typing import Optional

from mindspore import nn

from . import models
from .checkpoint import create_pretrained
from .pretrained import Source, choose_weights

__all__ = ["create_model"]


def create_model(
    model_name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    pretrained: bool = False,
    pretrained_torch: Optional[str] = None,
    use_ema: bool = False,
    pretrained_cache: Optional[str] = None,
    pretrained_mirror: Optional[str] = None,
    **kwargs,
) -> nn.Cell:
    """Build a model of this project or of MindCV by name, and give it published weights or those of a file.

    Args:
        model_name: a model's name. A tag behind it, such as in ``"fastvit_sa12.dist_in1k"``, says which of the
            published weights, and the model gets the options that they were trained with; ``list_pretrained()`` lists
            the names. Without a tag they are the model's preferred weights.
        num_classes: width of the classifier; 0 leaves it out. Where the weights have another number of classes, the
            classifier keeps its initial values, and the log says so.
        in_channels: channels of the input images.
        pretrained: download the published weights, once, and load them.
        pretrained_torch: official or timm checkpoint to load instead, a file of ``torch.save`` or safetensors.
        use_ema: take the moving averages that ``pretrained_torch`` holds.
        pretrained_cache: folder of the downloaded files; by default the one in the environment variable
            MINDCV_MODELS_CACHE, or ``~/.cache/mindcv_models/weights``.
        pretrained_mirror: server to download from, instead of the published addresses' servers, with their paths; by
            default the one in MINDCV_MODELS_MIRROR. HF_ENDPOINT replaces https://huggingface.co alone.
        **kwargs: the model's own options, such as ``drop_path_rate`` or ``features_only`` with ``out_indices``;
            None leaves an option at its default.

    Raises:
        InputError: no model has that name, or it does not know an option, or the weights do not fit.
        RunError: the weights could not be downloaded.
    """
    if pretrained or pretrained_torch:
        source = Source(pretrained_cache, pretrained_mirror, pretrained_torch)
        return create_pretrained(model_name, num_classes, in_channels, source, use_ema, **kwargs)
    if "." in model_name:
        model_name, _, kwargs = choose_weights(model_name, kwargs)
    return models.create_model(model_name, num_classes, in_channels, **kwargs)

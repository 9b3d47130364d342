"""Models with the weights that their authors published."""

import logging
from functools import partial
from pathlib import Path
from typing import Callable, Optional

from mindcv.models.registry import get_pretrained_cfg
from mindspore import nn

from ..errors import InputError
from ..models.registry import config_of, create_model
from ..pretrained import Source, Weights, choose_weights, fetch
from ..reparameterize import reparameterize
from .files import load_backbone
from .state_dict import open_state_dict
from .torch_weights import load_torch_checkpoint

__all__ = ["create_pretrained", "creator"]

logger = logging.getLogger(__name__)


def create_pretrained(
    model_name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    source: Source = Source(),  # noqa: B008, it is immutable
    use_ema: bool = False,
    new_head: bool = True,
    **kwargs,
) -> nn.Cell:
    """Build a model by name and give it its published weights, those of ``source.file`` if there is one.

    Args:
        model_name: with a tag, such as ``"fastvit_sa12.dist_in1k"``, or without one, for the preferred weights.
        num_classes: width of the classifier; 0 leaves it out.
        use_ema: take the moving averages in ``source.file``.
        new_head: where the weights have another number of classes, the classifier keeps its initial values, and the
            log says so; otherwise they are refused.
        **kwargs: options of the model; weights that were trained with others are not taken. ``features_only`` leaves
            out what only the classifier has.

    Returns:
        The network; that of weights of the inference form (tags ``..._reparam``) is reparameterized.

    Raises:
        InputError: there are no such weights, or they do not fit.
        RunError: they could not be downloaded.
    """
    own_file = source.file and "." not in model_name  # may be of any options
    name, weights, kwargs = (model_name, None, kwargs) if own_file else choose_weights(model_name, kwargs)
    if weights is None and source.file is None:  # MindCV's own, from its own server
        classes = get_pretrained_cfg(name).get("num_classes", num_classes)
        if not new_head and classes != num_classes:
            raise InputError(f"MindCV's weights of {name} have {classes} classes, not {num_classes}: use ckpt_path.")
        return create_model(name, num_classes, in_channels, pretrained=True, **kwargs)
    network = create_model(name, num_classes, in_channels, **kwargs)
    path = source.file or str(fetch(weights, source, check_readable))
    if weights is not None and weights.fused:
        network = reparameterize(network, inplace=True)
    if kwargs.get("features_only"):
        report = load_backbone(network, path, use_ema)
        logger.info("loaded %s from %s: %s", _words(name, weights), path, report)
        return network
    heads = (config_of(name).classifier or ("head",)) if new_head else ()
    report = load_torch_checkpoint(network, path, heads, use_ema, keep_if_equal=True)
    logger.info("loaded %s from %s: %s", _words(name, weights), path, report)
    return network


def creator(options, new_head: bool = False) -> Callable[..., nn.Cell]:
    """What builds the model of a script's options: with published weights where they ask for these.

    Args:
        options: with the fields of :class:`mindcv_models.options.Published` and ``model``.
        new_head: see :func:`create_pretrained`.
    """
    if options.wants_published:
        return partial(create_pretrained, options.tagged_model, source=options.source, new_head=new_head)
    return partial(create_model, options.model)


def check_readable(path: Path) -> None:
    """Raise InputError if ``path`` holds no state dict."""
    open_state_dict(str(path))


def _words(name: str, weights: Optional[Weights]) -> str:
    return f"weights of {name}" if weights is None else weights.name

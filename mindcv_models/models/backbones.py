"""Any model as a backbone: its maps at the strides that a detector or a segmenter needs.

The three families give feature maps themselves (``features_only``). Of MindCV's models those do that say where their
maps are (``feature_info``); they are cut after the last map, and their parameters keep their names.
"""

from typing import Optional, Sequence

import mindcv
from mindcv.models.registry import get_pretrained_cfg, is_model
from mindspore import nn

from ..errors import InputError, nearest
from . import fastervit, fastvit, litv2

__all__ = ["create_backbone"]

STRIDES = (4, 8, 16, 32)  # of the families' maps, in order


def create_backbone(name: str, strides: Sequence[int] = STRIDES, dense: Optional[str] = None, in_channels: int = 3,
                    **options) -> nn.Cell:  # fmt: skip
    """The model ``name`` as a cell from images ``(B, in_channels, H, W)`` to a tuple of maps, finest first.

    A map of stride ``s`` is ``(B, C, H / s, W / s)`` where ``H`` and ``W`` are multiples of ``s``.

    Args:
        strides: which maps to return, in rising order.
        dense: "detection" or "segmentation": LITv2's maps are normalised as in its official models. Other models have
            no such forms.
        **options: the model's own, such as ``drop_path_rate`` or LITv2's ``window_size``.

    Returns:
        A cell with the attributes ``out_channels`` and ``out_strides``: width and stride of each map.

    Raises:
        InputError: no model has that name, or it gives no maps of these strides.
        TypeError: the model does not know an option.
    """
    if not is_model(name):
        raise InputError(f"unknown backbone {name!r}: {nearest(name, mindcv.list_models(), 'try litv2_s.')}")
    if get_pretrained_cfg(name).get("task", "classification") != "classification":
        raise InputError(f"{name} is no backbone but a model with one: give an image classifier, such as litv2_s.")
    if any(name in family.VARIANTS for family in (fastvit, fastervit, litv2)):
        check_strides(name, strides, STRIDES)
        options["out_indices"] = tuple(STRIDES.index(stride) for stride in strides)
        if name in litv2.VARIANTS:
            options.setdefault("dense", dense)
        return mindcv.create_model(name, features_only=True, in_channels=in_channels, **options)
    return cut(name, mindcv.create_model(name, num_classes=1, in_channels=in_channels, **options), strides)


def check_strides(name: str, strides: Sequence[int], known: Sequence[int]) -> None:
    missing = [stride for stride in strides if stride not in known]
    if missing:
        raise InputError(
            f"{name} has feature maps of strides {', '.join(map(str, known))}, but not of {missing[0]}: choose another "
            "backbone."
        )


def cut(name: str, network: nn.Cell, strides: Sequence[int]) -> nn.Cell:
    """The part of a classifier of MindCV's that gives the maps of these strides; of several of one, the last."""
    info = getattr(network, "feature_info", None)
    if not info:
        raise InputError(
            f"{name} gives no feature maps, so it cannot be a backbone: choose another, such as resnet50 or litv2_s."
        )
    places = {entry["reduction"]: entry for entry in info}
    check_strides(name, strides, sorted(places))
    chosen = [places[stride] for stride in strides]
    taps = [entry["name"] for entry in chosen]
    return Cut(network, taps, [entry["chs"] for entry in chosen], list(strides))


class Cut(nn.Cell):
    """A chain of cells, and the values after some of them.

    Args:
        network: its children, in order, are the chain; those of a sequential child count as its own if the network has
            ``flatten_sequential``.
        taps: names of the children to return the values of, in order; what comes after the last is left out.
        out_channels, out_strides: width and stride of each map.
    """

    def __init__(self, network: nn.Cell, taps: Sequence[str], out_channels, out_strides):
        super().__init__()
        self.out_channels, self.out_strides = out_channels, out_strides
        self.chain, self.is_tap = [], []
        for name, child in network.name_cells().items():
            steps = {name: child}
            if isinstance(child, nn.SequentialCell) and getattr(network, "flatten_sequential", False):
                steps = {f"{name}.{k}": step for k, step in enumerate(child)}
                wanted = [k for k, step in enumerate(steps) if step in taps]
                child = nn.SequentialCell(list(child)[: wanted[-1] + 1 if taps[-1] in steps else len(steps)])
                self.classifier_cells = tuple(list(steps)[len(child) :])  # for load_backbone
                steps = dict(list(steps.items())[: len(child)])
            setattr(self, name, child)
            self.chain += list(steps.values())
            self.is_tap += [step in taps for step in steps]
            if taps[-1] in steps:
                break

    def construct(self, x):
        maps = ()
        for cell, is_tap in zip(self.chain, self.is_tap):
            x = cell(x)
            if is_tap:
                maps += (x,)
        return maps

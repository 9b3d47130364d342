"""Names of parameters: MindSpore's, the official PyTorch releases' and timm's."""

import re
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import numpy as np
from mindspore import nn

from ..errors import InputError

# Cells mirror the official module tree, so only the leaves of normalisation layers have other names.
_NORM_LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)

# State-dict entries that carry no weights: counters of batch normalisation.
_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$")

# FasterViT's buffers that follow from the geometry alone: networks compute them, so they are never loaded.
_DERIVED = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|relative_bias)$")

# FasterViT registers one convolution under two names. PyTorch fills it from both in turn, so the second one counts.
_SECOND_NAME = (".global_tokenizer.to_global_feature.pos.", ".global_tokenizer.pos_embed.")

# timm's names to the official ones, applied in order; {last} is the index of the last stage.
_TIMM_FASTVIT = (
    (r"^stem\.", "patch_embed."),
    (r"^final_conv\.", "conv_exp."),
    (r"^head\.fc\.", "head."),
    (r"^stages\.3\.pos_emb\.pos_enc\.", "network.6.pe."),
    (r"^stages\.3\.pos_emb\.reparam_conv\.", "network.6.reparam_conv."),
    (r"^stages\.([123])\.downsample\.proj\.0\.reparam_conv\.", r"stages.\1.downsample.proj.0.lkb_reparam."),
    (r"^stages\.([123])\.downsample\.", lambda m: f"network.{2 * int(m[1]) - 1}."),
    (r"^stages\.([012])\.blocks\.", lambda m: f"network.{2 * int(m[1])}."),
    (r"^stages\.3\.blocks\.", "network.{last}."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.", ".convffn."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.(layer_scale(_[12])?)\.gamma$", r".\1"),
)


def own_names(network: nn.Cell) -> Dict[str, str]:
    """The name relative to ``network`` of each of its parameters, by its full name, in the network's order."""
    return {parameter.name: name for name, parameter in network.parameters_and_names()}


def torch_names(network: nn.Cell) -> Dict[str, str]:
    """The PyTorch state-dict name of every parameter of ``network``, by its MindSpore name, in the network's order."""
    names = {}
    for prefix, cell in network.cells_and_names():
        leaves = _NORM_LEAVES if isinstance(cell, _NORMS) else {}
        for leaf, parameter in cell._params.items():
            if parameter is not None:
                names[parameter.name] = ".".join(filter(None, (prefix, leaves.get(leaf, leaf))))
    return names


def is_counter(name: str) -> bool:
    """True for a state-dict entry that no network needs, such as ``num_batches_tracked``."""
    return _COUNTERS.search(name) is not None


def is_derived(name: str) -> bool:
    """True for a state-dict entry that holds a table computed from the geometry, whatever weights it came with."""
    return _DERIVED.search(name) is not None


def official_names(names: Iterable[str]) -> Dict[str, str]:
    """The official name of every state-dict name given, timm's FastViT names included; others stay as they are.

    Of two names for one parameter only that which counts is among the keys.
    """
    names = list(names)
    second = {name: name.replace(*_SECOND_NAME) for name in names if _SECOND_NAME[0] in name}
    if second:
        return {name: second.get(name, name) for name in names if name not in second.values()}
    if not _are_timm_fastvit(names):
        return {name: name for name in names}
    last = 7 if any(name.startswith("stages.3.pos_emb.") for name in names) else 6
    return {name: _rewrite(name, last) for name in names}


def _are_timm_fastvit(names: Sequence[str]) -> bool:
    """Other networks have a stem too, so it takes a second name to tell."""
    second = ("final_conv.", "stages.0.blocks.0.token_mixer.")
    return any(name.startswith("stem.") for name in names) and any(name.startswith(second) for name in names)


def _rewrite(name: str, last: int, rules: Sequence[Tuple[str, Any]] = _TIMM_FASTVIT) -> str:
    for pattern, replacement in rules:
        if isinstance(replacement, str):
            replacement = replacement.replace("{last}", str(last))
        name = re.sub(pattern.replace("{last}", str(last)), replacement, name)
    return name


# The other way: official names of FastViT to timm's, in order; {last} as above.
_OFFICIAL_FASTVIT = (
    (r"^patch_embed\.", "stem."),
    (r"^conv_exp\.", "final_conv."),
    (r"^head\.", "head.fc."),
    (r"^network\.{last}\.", "stages.3.blocks."),
    (r"^network\.6\.pe\.", "stages.3.pos_emb.pos_enc."),
    (r"^network\.6\.reparam_conv\.", "stages.3.pos_emb.reparam_conv."),
    (r"^network\.([135])\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample."),
    (r"^network\.([024])\.", lambda m: f"stages.{int(m[1]) // 2}.blocks."),
    (r"\.lkb_reparam\.", ".reparam_conv."),
    (r"\.rbr_conv\.", ".conv_kxk."),
    (r"\.rbr_scale\.", ".conv_scale."),
    (r"\.rbr_skip\.", ".identity."),
    (r"\.lkb_origin\.", ".large_conv."),
    (r"\.convffn\.", ".mlp."),
    (r"\.se\.reduce\.", ".se.fc1."),
    (r"\.se\.expand\.", ".se.fc2."),
    (r"\.(layer_scale(_[12])?)$", r".\1.gamma"),
)


def timm_names(official: Iterable[str]) -> Dict[str, str]:
    """timm's name of every official name of a FastViT.

    Raises:
        InputError: they are the names of another network; timm has none of this project's other families.
    """
    official = list(official)
    if not any(name.startswith("patch_embed.0.") for name in official):
        raise InputError("timm's names are known for FastViT only: leave --names out.")
    last = 7 if any(name.startswith(("network.6.pe.", "network.6.reparam_conv.")) for name in official) else 6
    return {name: _rewrite(name, last, _OFFICIAL_FASTVIT) for name in official}


def second_name(name: str) -> Optional[str]:
    """The other official name of the parameter that PyTorch calls ``name``, or None."""
    first, second = _SECOND_NAME[1], _SECOND_NAME[0]
    return name.replace(first, second) if first in name else None


def official_buffers(network: nn.Cell) -> Dict[str, np.ndarray]:
    """What the official state dict has besides parameters, by its name there: counters, and tables of the geometry."""
    buffers = {}
    for prefix, cell in network.cells_and_names():
        leaves = cell.official_buffers() if hasattr(cell, "official_buffers") else {}
        if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)):
            leaves = {"num_batches_tracked": np.zeros((), np.int64)}
        buffers.update((f"{prefix}.{leaf}", value) for leaf, value in leaves.items())
    return buffers

"""Checkpoints of PyTorch into this project's, and back.

Weights go from file to file a tensor at a time. The network is built for its names and shapes alone: its parameters
get no values, so that converting the largest model needs no more memory than its largest tensor.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters
from tqdm import tqdm

from ..errors import InputError, RunError, shown
from ..files import atomic_output, read_arrays, require_file
from ..models.registry import config_of, create_model
from ..reparameterize import reparameterize
from .files import choose_averages, load_weights
from .fit import find_prefix, fit_state_dict, outputs_of, under_prefix
from .mindspore_file import is_ckpt, read_ckpt
from .names import official_buffers, official_names, second_name, timm_names, torch_names
from .state_dict import StateDict, open_state_dict
from .torch_weights import load_torch_state_dict
from .writing import Entry, check_file, write_ckpt, write_safetensors

__all__ = ["DTYPES", "NAMES", "Conversion", "convert_checkpoint", "export_to_torch", "verify_logits"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16")
NAMES = ("official", "timm")
SHOW_PROGRESS = 256 << 20  # bytes
LARGEST_CHECK = 4 << 30


@dataclass
class Conversion:
    """What to make of a checkpoint.

    Attributes:
        model: name of the model.
        num_classes: classes of the network; None for as many as the checkpoint has. Another number than the
            checkpoint's leaves its classifier out and writes a new one.
        reparam: write the inference form.
        dtype: type of the weights written, one of :data:`DTYPES`.
        use_ema: take the moving averages in the checkpoint.
        model_kwargs: further options of the model, such as ``resolution`` or ``features_only``.
        names: of a safetensors file to write, one of :data:`NAMES`.
    """

    model: str
    num_classes: Optional[int] = None
    reparam: bool = False
    dtype: str = "float32"
    use_ema: bool = False
    model_kwargs: Optional[Dict[str, Any]] = None
    names: str = "official"

    def network(self, num_classes: int) -> nn.Cell:
        return create_model(self.model, num_classes=num_classes, **(self.model_kwargs or {}))

    @property
    def heads(self) -> Tuple[str, ...]:
        """Names of the cells that depend on the number of classes, the classifier first."""
        return config_of(self.model).classifier or ("head",)

    def empty_network(self, num_classes: int) -> nn.Cell:
        """The network with names and shapes, but without values."""
        with no_init_parameters():
            return self.network(num_classes)

    def classes_in(self, tensors: Mapping[str, Any]) -> int:
        """The number of classes of a state dict by official or own names; 0 if its classifier is not there."""
        config, outputs = config_of(self.model), outputs_of(tensors, self.heads[0])
        return (outputs - config.background) // config.outputs_per_class if outputs else 0


def convert_checkpoint(
    source: str, output: Path, conversion: Conversion, verify: Optional[Callable[[nn.Cell], None]] = None
) -> None:
    """Write the PyTorch checkpoint ``source`` as ``output``: ``.ckpt`` in MindSpore's format and under its names, or
    ``.safetensors`` under the official ones.

    What was written is read back and compared, and given to ``verify`` in a network, before it is called ``output``.

    Raises:
        InputError: ``source`` cannot be read or does not fit, or ``output`` cannot be written.
        RunError: what was written is not what it was to be, or ``verify`` says so.
    """
    require_file(source, "checkpoint", "give a .pth, .pt, .bin, .pth.tar or .safetensors file")
    if is_ckpt(source):
        raise InputError(
            f"{source} is a .ckpt of MindSpore's already: give it to --ckpt_path, or to --to_torch to convert it back."
        )
    state = open_state_dict(source, conversion.use_ema)
    logger.info("%s: %d entries, %s", source, len(state.tensors), state.origin)
    network, entries = _entries(source, state, conversion)
    if output.suffix == ".safetensors":
        names = torch_names(network)
        entries = [replace(entry, name=names[entry.name]) for entry in entries]
        if conversion.names == "timm":
            entries = _with_timm_names(entries)
    elif conversion.names != "official":
        raise InputError(f"--names {conversion.names} is for .safetensors files: give --output that ending.")
    _write(output, entries, verify and partial(_verify_file, network, conversion, verify))


def _entries(source: str, state: StateDict, conversion: Conversion) -> Tuple[nn.Cell, List[Entry]]:
    """The network, and its parameters as they will be written."""
    state = _of_network(source, state, conversion)
    fused = any(".reparam_conv." in name or ".lkb_reparam." in name for name in official_names(state.tensors).values())
    given = conversion.classes_in(state.tensors)
    classes = given if conversion.num_classes is None else conversion.num_classes
    without = conversion.heads if classes != given and given else ()
    if fused or conversion.reparam:  # fusing needs values
        network = conversion.network(classes)
        if not fused:
            logger.info("%s", load_torch_state_dict(network, state.tensors, without, state.left_out, source))
            network = reparameterize(network, inplace=True)
            return network, [_of_parameter(p, conversion.dtype) for p in network.get_parameters()]
        logger.info("the checkpoint holds the inference form, and so will the output")
        network = reparameterize(network, inplace=True)
    else:
        network = conversion.empty_network(classes)
    fit = fit_state_dict(network, state.tensors, without, without, state.left_out, source=source)
    logger.info("%s", fit.report)
    return network, [
        Entry(p.name, tuple(p.shape), conversion.dtype, partial(np.asarray, state.tensors[fit.sources[p.name]]))
        if p.name in fit.sources
        else _of_parameter(p, conversion.dtype)
        for p in network.get_parameters()
    ]


def _of_network(source, state: StateDict, conversion: Conversion) -> StateDict:
    """The part of a state dict that is the network's own, by its names without the prefix that they have there."""
    network = conversion.empty_network(conversion.num_classes or 1)
    prefix = find_prefix(network, state.tensors, source=source)
    others = tuple(name for name in state.tensors if not name.startswith(prefix))
    return StateDict(under_prefix(state.tensors, prefix), state.origin, (*state.left_out, *others))


def _of_parameter(parameter, kind) -> Entry:
    if parameter.has_init:
        parameter.init_data()
    return Entry(parameter.name, tuple(parameter.shape), kind, parameter.asnumpy)


def export_to_torch(source: str, output: Path, conversion: Conversion) -> None:
    """Write a checkpoint of this project as a safetensors state dict that the official release loads strictly.

    Weights keep their bits. Counters of batches are zero, tables of the geometry are computed, and a weight with two
    names is written under both.

    Raises:
        InputError: ``source`` cannot be read or does not fit, or ``output`` cannot be written.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"--output is {output}, but --to_torch writes safetensors: give it that ending.")
    tensors, classes = _own_tensors(source, conversion)
    if conversion.reparam:
        network = reparameterize(conversion.network(classes), inplace=True)
    else:
        network = conversion.empty_network(classes)
    names = torch_names(network)
    _check_own(source, tensors, network)
    entries = [Entry(names[name], t.shape, t.kind, partial(np.asarray, t)) for name, t in tensors.items()]
    entries += [Entry(second_name(e.name), e.shape, e.kind, e.read) for e in entries if second_name(e.name)]
    for name, parameter in network.parameters_dict().items():
        if ".cpb_mlp." in name:  # what the tables are computed from
            parameter.set_data(Tensor(np.asarray(tensors[name]), parameter.dtype))
    present = {entry.name for entry in entries}
    for name, value in official_buffers(network).items():
        if name not in present:
            kind = "int64" if value.dtype == np.int64 else "float32"
            entries.append(Entry(name, value.shape, kind, partial(np.asarray, value)))
    if conversion.names == "timm":
        entries = _with_timm_names(entries)
    logger.info(
        "%s: %d weights under %s names, %d entries in all", source, len(tensors), conversion.names, len(entries)
    )
    _write(output, entries)


def _with_timm_names(entries: List[Entry]) -> List[Entry]:
    names = timm_names(entry.name for entry in entries)
    return [replace(entry, name=names[entry.name]) for entry in entries]


def _own_tensors(source, conversion):
    require_file(source, "checkpoint", "set --to_torch to a .ckpt file of this project")
    if not is_ckpt(source):
        raise InputError(f"{source} is no .ckpt file of this project: --to_torch takes one.")
    tensors = choose_averages(source, read_ckpt(source), conversion.use_ema)
    given = conversion.classes_in(tensors)
    if conversion.num_classes not in (None, given):
        raise InputError(f"{source} has {given} classes, not {conversion.num_classes}: leave --num_classes out.")
    return tensors, given


def _check_own(source, tensors, network):
    parameters = {p.name: tuple(p.shape) for p in network.get_parameters()}
    for name in sorted(set(parameters) ^ set(tensors)):
        raise InputError(f"{source} does not fit: {name} is not in both; give its model, and --reparam as it was.")
    for name, shape in parameters.items():
        if shape != tensors[name].shape:
            raise InputError(f"{source} does not fit: {name} is {tensors[name].shape} there, but must be {shape}.")


def _write(output: Path, entries: List[Entry], verify: Optional[Callable[[str], None]] = None) -> None:
    """Write, compare and swap in."""
    total = sum(entry.size for entry in entries)
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=output.name, disable=total < SHOW_PROGRESS, mininterval=1)
    with bar, atomic_output(output) as partial:
        if output.suffix == ".safetensors":
            checksums = write_safetensors(partial, entries, bar.update, {"format": "pt"})
            check_file(lambda: open_state_dict(str(partial)).tensors, entries, checksums)
        else:
            checksums = write_ckpt(partial, entries, bar.update)
            check_file(lambda: read_ckpt(str(partial)), entries, checksums)
        if verify:
            verify(str(partial))
    logger.info("wrote %s: %d tensors, %.1f MB, read back and compared", output, len(entries), total / 1e6)


def _verify_file(network, conversion, verify, path):
    fresh = conversion.network(conversion.classes_in(network.parameters_dict()))
    names = {parameter.name for parameter in network.get_parameters()}
    if names != {parameter.name for parameter in fresh.get_parameters()}:
        fresh = reparameterize(fresh, inplace=True)
    load_weights(fresh, path)
    verify(fresh)


def verify_logits(path: str, tolerance: float) -> Callable[[nn.Cell], None]:
    """A check of a network: on the ``images`` of an ``.npz`` file it gives its ``logits``.

    Args:
        tolerance: the largest difference allowed, as a share of the largest logit.

    Raises:
        InputError: the file cannot be read, or has other arrays.
    """
    arrays = read_arrays(path, "file with images and logits", LARGEST_CHECK)
    given = [arrays.get(name) for name in ("images", "logits")]
    if any(array is None or array.dtype.kind not in "fiu" for array in given):
        raise InputError(f"{path} has no images and logits, but {shown(list(arrays))}: write both with np.savez.")
    images, expected = (array.astype(np.float32) for array in given)
    if images.ndim != 4 or expected.ndim != 2 or len(images) != len(expected):
        raise InputError(
            f"{path} has images {images.shape} and logits {expected.shape}: give (B, 3, H, W) and (B, classes)."
        )

    def check(network):
        try:
            logits = network.set_train(False)(Tensor(images))
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"the model does not take the images {images.shape} of {path}: {error}") from error
        if not isinstance(logits, Tensor):
            raise InputError("--verify compares logits, and a backbone gives none: leave it out.")
        logits = logits.asnumpy()
        if logits.shape != expected.shape:
            raise RunError(f"verification failed: logits are {logits.shape}, but {expected.shape} in {path}")
        difference, largest = np.abs(logits - expected).max(), np.abs(expected).max()
        words = f"logits up to {largest:.3g} differ by {difference:.3g} from {path}"
        if not difference <= tolerance * largest:
            raise RunError(f"verification failed: {words}, over {tolerance:g} of the largest")
        logger.info("verified: %s", words)

    return check

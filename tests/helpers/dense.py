"""Reference cases of dense models, by their kinds: what to compute and how far it may differ.

A module of this folder adds kinds with :func:`kind`; :data:`MODULES` lists those modules. A folder of cases has a
``cases.json`` and the arrays that it names.
"""

import functools
import importlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindcv_models.cells import set_value
from mindcv_models.checkpoint.names import torch_names
from mindcv_models.checkpoint.torch_weights import load_torch_state_dict
from mindcv_models.errors import InputError
from mindcv_models.models.registry import create_model
from mindcv_models.training.groups import Group
from mindcv_models.training.optimizer import AdamW
from tests.helpers import parity

DATA = parity.DATA / "dense"
MODULES = ("dense_detection", "dense_segmentation", "dense_mask_rcnn")
KINDS: Dict[str, List[Callable]] = {}
BEFORE_RELU = re.compile(
    r"decode_head\.scale_heads\..*\.bn\.bias|bbox_head\.(cls|reg)_convs\..*\.bias|rpn_head\.rpn_conv\.bias"
    r"|roi_head\.(bbox_head\.shared_fcs|mask_head\.(convs|upsample))\..*bias"
)
NUDGES = (1e-5, -1e-5, 3e-5, -3e-5, 1e-4, -1e-4)  # float32 leaves about 3e-5 in the inputs of ReLUs, most 1.5e-4


@dataclass(frozen=True)
class Difference:
    """How far a value is from the reference, and how far it may be; with tolerance 0, how many values differ."""

    what: str
    value: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.value <= self.tolerance


class Case:
    """A case: its entry of ``cases.json`` as items, and its arrays by :attr:`arrays`."""

    def __init__(self, folder: Path, entry: Dict[str, Any]):
        self.folder, self.entry = Path(folder), entry

    @functools.cached_property
    def arrays(self) -> Dict[str, np.ndarray]:
        path = self.folder / Path(self["file"]).name
        try:
            return dict(np.load(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error})") from error

    def __getitem__(self, key):
        return self.entry[key]

    def get(self, key, default=None):
        return self.entry.get(key, default)

    def other(self, kind: str) -> Iterator["Case"]:
        """The cases of another kind in this folder."""
        return (case for case in cases(self.folder) if case["kind"] == kind)

    def unpacked(self, name: str) -> np.ndarray:
        """A packed array of masks: ``(N, h, w)`` of 0 and 1."""
        count, height, width = self["packed"][name]
        rows = self.arrays[name].reshape(count, -(-height * width // 8))
        bits = np.unpackbits(rows, axis=1)[:, : height * width]
        return bits.reshape(count, height, width)


def kind(name: str):
    """Register a function that yields the :class:`Difference` objects of a :class:`Case` of this kind.

    A kind may have several, each for what another task compares.
    """

    def register(function):
        KINDS.setdefault(name, []).append(function)
        return function

    return register


def load_kinds() -> None:
    """Import the modules that define kinds; one that does not exist yet is left out."""
    for name in MODULES:
        if (Path(__file__).parent / f"{name}.py").exists():
            importlib.import_module(f"tests.helpers.{name}")


def cases(folder) -> List[Case]:
    """The cases of a folder.

    Raises:
        InputError: it has no list of them.
    """
    try:
        entries = json.loads((Path(folder) / "cases.json").read_text(encoding="utf-8"))
        return [Case(folder, entry) for entry in entries if entry["id"] and entry["kind"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder} has no readable cases.json ({error}); give a folder of reference cases.") from error


def case(name: str) -> Case:
    """A case of tests/data/dense."""
    return next(case for case in cases(DATA) if case["id"] == name)


def differences(case: Case) -> List[Difference]:
    """Everything that a case compares.

    Raises:
        InputError: nothing knows its kind, or it has none of the arrays that its kind compares.
    """
    if case["kind"] not in KINDS:
        raise InputError(f"kind {case['kind']!r} is unknown; known ones are {', '.join(sorted(KINDS))}")
    found = [difference for function in KINDS[case["kind"]] for difference in function(case)]
    if not found:
        raise InputError("the case has nothing to compare")
    return found


def check(case: Case) -> None:
    """Assert that a case holds."""
    wrong = [f"{d.what}: {d.value:.3g}, but at most {d.tolerance:.3g}" for d in differences(case) if not d.ok]
    assert not wrong, wrong


def build(case: Case, model: str, **options) -> nn.Cell:
    """The model of a case over its backbone, with the reference weights, in evaluation mode."""
    backbone = re.search(r"litv2_[smb]", case["variant"])
    if backbone is None:
        raise InputError(f"variant {case['variant']!r} names no backbone; it should end in litv2_s, litv2_m or litv2_b")
    network = create_model(model, backbone=backbone[0], num_classes=case["num_classes"], drop_path_rate=0.0, **options)
    shapes = {name: network.parameters_dict()[own].shape for own, name in torch_names(network).items()}
    load_torch_state_dict(network, parity.state_dict(shapes, case["salt"]))
    return network.set_train(False)


def images(case: Case) -> ms.Tensor:
    count, _, height, width = case["image_shape"]
    return ms.Tensor(parity.images(count, height, width, case["salt"]))


def largest(a, b) -> float:
    """The largest absolute difference; infinite where shapes differ or a value is NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return np.inf
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max(initial=0))


def compare(what: str, value, reference, tolerance: float) -> Difference:
    return Difference(what, largest(value, reference), tolerance)


def exact(what: str, value, reference) -> Difference:
    """How many values differ."""
    value, reference = np.asarray(value), np.asarray(reference)
    if value.shape != reference.shape:
        return Difference(f"{what} (shape {value.shape}, not {reference.shape})", np.inf, 0)
    return Difference(what, float((value != reference).sum()), 0)


def compare_array(case: Case, name: str, value: np.ndarray, tolerance: float) -> Iterator[Difference]:
    """An array that the case has in full, by its statistics and a slice, or not at all."""
    if name in case.arrays:
        yield compare(name, value, case.arrays[name], tolerance)
        return
    if f"{name}__slice" not in case.arrays:
        return
    entry = case["slices"][name]
    if value.shape != tuple(entry["shape"]):
        yield Difference(f"{name} (shape {value.shape}, not {entry['shape']})", np.inf, tolerance)
        return
    yield compare(f"{name} slice", value[parse_slice(entry["slice"])], case.arrays[f"{name}__slice"], tolerance)
    wide = value.astype(np.float64)
    statistics = [wide.mean(), wide.std(), wide.min(), wide.max()]
    yield compare(f"{name} statistics", statistics, case.arrays[f"{name}__stats"], tolerance)


def parse_slice(text: str):
    """A slice in NumPy's notation, such as "[:, ::16]"."""

    def parse(part):
        numbers = [int(number) if number.strip() else None for number in part.split(":")]
        return slice(*numbers) if ":" in part else numbers[0]

    return tuple(parse(part) for part in text.strip("[] ").split(",") if part.strip())


class ConstantRate(nn.Cell):
    def __init__(self, value):
        super().__init__()
        self.value = ms.Tensor(value, ms.float32)

    def construct(self, step):
        return self.value


def adamw(network: nn.Cell, rate: float, decay: float = 1e-4, spared=lambda name: False) -> AdamW:
    """AdamW of a constant rate over all parameters; those whose PyTorch name is ``spared`` do not decay."""
    names = torch_names(network)
    parameters = network.trainable_params()
    groups = [
        Group([p for p in parameters if spared(names[p.name])], 1, 1, 0.0),
        Group([p for p in parameters if not spared(names[p.name])], 1, 1, decay),
    ]
    groups = [group for group in groups if group.parameters]
    return AdamW(groups, [ConstantRate(rate) for _ in groups])


class UpdateStep(nn.Cell):
    """One graph: the loss of ``forward(*batch)``, which gives ``(loss, rest)``, all gradients' norms, and an update.

    Returns ``rest`` and the norms ``(P,)`` in the order of ``optimizer.parameters``, from before the update.

    Attributes:
        names: the PyTorch names of these parameters.
    """

    def __init__(self, network: nn.Cell, forward, optimizer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.gradient = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)
        self.map = ops.HyperMap()
        self.set_train()
        self.names = [torch_names(network)[parameter.name] for parameter in optimizer.parameters]
        self.start = [(parameter, parameter.asnumpy().copy()) for parameter in self.get_parameters()]

    def norms_beside(self, nudge: float, *batch) -> np.ndarray:
        """The norms at the first values, with all biases before ReLUs moved by ``nudge``."""
        for parameter, value in self.start:
            set_value(parameter, value)
        for name, parameter in zip(self.names, self.optimizer.parameters):
            if BEFORE_RELU.fullmatch(name):
                set_value(parameter, parameter.asnumpy() + np.float32(nudge))
        return self(*batch)[1].asnumpy()

    def construct(self, *batch):
        (_, rest), gradients = self.gradient(*batch)
        norms = ops.stack(self.map(norm, gradients))
        return ops.depend(rest, self.optimizer(gradients)), norms


def norm(gradient):
    return ops.sqrt(ops.square(gradient).sum())


def compare_gradients(case: Case, step: UpdateStep, batch, norms: np.ndarray) -> Iterator[Difference]:
    """The norms of the first step, and if they differ, those beside it; the network's values are lost then.

    A ReLU whose input is nearer to zero than rounding passes its gradient wholly or not at all, and one such unit of a
    coarse map moves the norms of all layers before it. So the norms may also be those with all inputs of ReLUs moved
    by a constant of the size of rounding, which takes such units to the other side and changes nothing else.
    """
    found = gradient_differences(case, step.names, norms)
    for nudge in NUDGES:
        if all(difference.ok for difference in found):
            break
        beside = gradient_differences(case, step.names, step.norms_beside(nudge, *batch))
        if all(difference.ok for difference in beside):
            found = [replace(d, what=f"{d.what}, ReLUs moved by {nudge:g}") for d in beside]
    yield from found


def gradient_differences(case: Case, names: List[str], norms: np.ndarray) -> List[Difference]:
    """Norms by relative difference where they exceed 1e-4 of the largest; small ones must stay small.

    The bias before DTM's batch normalisation has a gradient of zero but for rounding, so it is among the small ones.
    """
    measured = dict(zip(names, norms))
    reference = dict(zip(map(str, case.arrays["param_names"]), case.arrays["grad_norm"].astype(np.float64)))
    missing = set(measured) ^ set(reference)
    if missing:
        return [Difference(f"names of gradients {sorted(missing)[:2]}", len(missing), 0)]
    least = 1e-4 * max(reference.values())
    relative = {
        name: abs(measured[name] - value) / value
        for name, value in reference.items()
        if value > least and not name.endswith("dconv.bias")
    }
    worst = max(relative, key=lambda name: np.nan_to_num(relative[name], nan=np.inf))
    small = max(abs(measured[name] - value) for name, value in reference.items() if name not in relative)
    return [
        Difference(f"gradient of {worst}", relative[worst], 5e-3),
        Difference("small gradients, by the largest", small / max(reference.values()), 1e-4),
    ]


def compare_statistics(case: Case, network: nn.Cell) -> Iterator[Difference]:
    """Running statistics of batch normalisation after one forward pass; their names have underscores for dots."""
    names = torch_names(network)
    for parameter in network.get_parameters():
        key = "bn_" + names[parameter.name].replace(".", "_")
        if key in case.arrays:
            yield compare(key, parameter.asnumpy(), case.arrays[key], 1e-4)

"""ImageNet-1K's classes, and test sets with other folders or labels: -A, -R, -V2, -C and ReaL."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError
from ..files import read_json

if TYPE_CHECKING:
    from .predict import Predictions

__all__ = ["ALEXNET_ERRORS", "BENCHMARKS", "Targets", "class_names", "corruption_errors", "identifiers",
           "read_real_labels", "real_accuracy", "resolve_targets"]  # fmt: skip

BENCHMARKS = ("imagenet", "imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-c")

# AlexNet's mean error over the five severities of each corruption of ImageNet-C. The mean corruption error is relative
# to it (Hendrycks and Dietterich, ICLR 2019; figures from the authors' release).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def _classes() -> List[Tuple[str, str, str]]:
    """WordNet identifier, the subsets with the class (``"A"``, ``"R"``), and words of each class, in label order."""
    text = Path(__file__).with_name("imagenet_classes.tsv").read_text(encoding="utf-8")
    return [tuple(line.split("\t")) for line in text.splitlines() if not line.startswith("#")]


def identifiers() -> List[str]:
    """The WordNet identifiers of ImageNet-1K's classes, in label order: what its class folders are called."""
    return [identifier for identifier, *_ in _classes()]


def class_names() -> List[str]:
    """A unique short name for each of ImageNet-1K's classes, in label order."""
    first = [words.split(",")[0] for _, _, words in _classes()]
    return [name if first.count(name) == 1 else f"{name} ({row[0]})" for name, row in zip(first, _classes())]


@dataclass(frozen=True)
class Targets:
    """The network's outputs and labels for a list of class folders.

    Attributes:
        outputs: indices of the network's outputs that are compared; None for all.
        labels: for each class folder, its index among those outputs.
        names: the class name of each of those outputs.
    """

    outputs: Optional[np.ndarray]
    labels: np.ndarray
    names: List[str]


def resolve_targets(folders: Sequence[str], benchmark: Optional[str]) -> Targets:
    """The targets of the sorted class ``folders`` of a plain image folder (None) or of a benchmark.

    ImageNet-A and -R have 200 of the 1,000 classes, and only their outputs are compared. ImageNet-V2's folders are
    named by label, the others by WordNet identifier.

    Raises:
        InputError: a folder that does not belong to the benchmark.
    """
    if benchmark is None:
        return Targets(None, np.arange(len(folders)), list(folders))
    subset = {"imagenet-a": "A", "imagenet-r": "R"}.get(benchmark, "")
    outputs = [i for i, (_, subsets, _) in enumerate(_classes()) if subset in subsets]
    known = [str(i) if benchmark == "imagenet-v2" else _classes()[i][0] for i in outputs]
    position = {name: i for i, name in enumerate(known)}
    for name in folders:
        if name not in position:
            raise InputError(
                f"class folder {name!r} is not one of the {len(known)} classes of {benchmark}, named like "
                f"{known[0]!r}: choose another benchmark, or the folder that contains its classes."
            )
    names = class_names()
    return Targets(
        np.array(outputs) if subset else None, np.array([position[n] for n in folders]), [names[i] for i in outputs]
    )


def read_real_labels(path: str) -> List[List[int]]:
    """The ReaL labels of ImageNet's 50,000 validation images: a list of labels, possibly empty, per image.

    Source: Beyer et al., "Are we done with ImageNet?", 2020; the file ``real.json`` of its release.

    Raises:
        InputError: the file cannot be read or has another format.
    """
    labels = read_json(path, "file of labels, such as real.json")
    if not isinstance(labels, list) or not all(isinstance(item, list) for item in labels):
        raise InputError(f"{path} is not a JSON list of label lists: give real_labels the file real.json.")
    return labels


def real_accuracy(predictions: "Predictions", labels: List[List[int]]) -> Tuple[float, int]:
    """Top-1 against the ReaL labels, and the number of images that have any.

    Raises:
        InputError: an image is not named like ``ILSVRC2012_val_00000001.JPEG``.
    """
    predicted = predictions.logits.argmax(1)
    hits = []
    for path, label in zip(predictions.paths, predicted):
        number = Path(path).stem.rpartition("_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(labels):
            raise InputError(
                f"real_labels has {len(labels)} images, but {path} is not one of them: "
                "it needs ImageNet's validation images, named like ILSVRC2012_val_00000001.JPEG."
            )
        if labels[int(number) - 1]:
            hits.append(label in labels[int(number) - 1])
    if not hits:
        raise InputError("real_labels has no labels for these images: use ImageNet's validation images.")
    return float(np.mean(hits)), len(hits)


def corruption_errors(errors: Dict[Tuple[str, int], float]) -> Dict[str, float]:
    """Mean errors by corruption from errors by (corruption, severity), and ``mean_error`` over all corruptions.

    ``mce``, the mean corruption error, is included if all of the paper's 15 corruptions have all five severities.
    """
    of = {name: [error for (corruption, _), error in errors.items() if corruption == name] for name, _ in errors}
    means = {name: float(np.mean(values)) for name, values in of.items()}
    result = {**means, "mean_error": float(np.mean(list(means.values())))}
    if all(len(of.get(name, ())) == 5 for name in ALEXNET_ERRORS):
        result["mce"] = float(np.mean([means[name] / base for name, base in ALEXNET_ERRORS.items()]))
    return result

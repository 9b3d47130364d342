"""ImageNet-1K's classes, and the test sets whose folders or labels are not its own: -A, -R, -V2, -C and ReaL."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError
from .predict import Predictions

__all__ = ["ALEXNET_ERRORS", "BENCHMARKS", "Targets", "class_names", "corruption_errors", "read_real_labels",
           "real_accuracy", "resolve_targets"]  # fmt: skip

BENCHMARKS = ("imagenet", "imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-c")

# AlexNet's mean error over the five severities of each corruption of ImageNet-C, by which the paper divides a
# model's (Hendrycks and Dietterich, ICLR 2019; figures of the authors' release).
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


def class_names() -> List[str]:
    """A different short name for each of ImageNet-1K's classes, in label order."""
    first = [words.split(",")[0] for _, _, words in _classes()]
    return [name if first.count(name) == 1 else f"{name} ({row[0]})" for name, row in zip(first, _classes())]


@dataclass(frozen=True)
class Targets:
    """What class folders mean to a network.

    Attributes:
        outputs: the network's outputs that compete, by number; None for all.
        labels: for each class folder, its position among those outputs.
        names: a name for each of those outputs.
    """

    outputs: Optional[np.ndarray]
    labels: np.ndarray
    names: List[str]


def resolve_targets(folders: Sequence[str], benchmark: Optional[str]) -> Targets:
    """The targets of the sorted class ``folders`` of a plain image folder (None) or of a benchmark.

    ImageNet-A and -R have 200 of the 1,000 classes, and only those compete. ImageNet-V2 names its folders by label,
    the others by WordNet identifier.

    Raises:
        InputError: a folder that the benchmark does not have.
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
                f"class folder {name!r} is none of {benchmark}'s {len(known)} classes, named like {known[0]!r}: "
                "choose another benchmark, or the folder that holds its classes."
            )
    names = class_names()
    return Targets(
        np.array(outputs) if subset else None, np.array([position[n] for n in folders]), [names[i] for i in outputs]
    )


def read_real_labels(path: str) -> List[List[int]]:
    """The reassessed labels of ImageNet's 50,000 validation images: for each its labels, or none.

    Source: Beyer et al., "Are we done with ImageNet?", 2020; the file ``real.json`` of its release.

    Raises:
        InputError: no such file, or not such a file.
    """
    try:
        labels = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give real_labels the file real.json.") from error
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(item, list) for item in labels):
        raise InputError(f"{path} is not a JSON list of label lists: give real_labels the file real.json.")
    return labels


def real_accuracy(predictions: Predictions, labels: List[List[int]]) -> Tuple[float, int]:
    """The share of images whose first guess is one of its reassessed labels, and of how many that have any.

    Raises:
        InputError: an image that is not named like ``ILSVRC2012_val_00000001.JPEG``.
    """
    guesses = predictions.logits.argmax(1)
    hits = []
    for path, guess in zip(predictions.paths, guesses):
        number = Path(path).stem.rpartition("_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(labels):
            raise InputError(
                f"real_labels has {len(labels)} images, but {path} is none of them: "
                "it needs ImageNet's validation images, named like ILSVRC2012_val_00000001.JPEG."
            )
        if labels[int(number) - 1]:
            hits.append(guess in labels[int(number) - 1])
    if not hits:
        raise InputError("real_labels has no label for any of these images: use ImageNet's validation images.")
    return float(np.mean(hits)), len(hits)


def corruption_errors(errors: Dict[Tuple[str, int], float]) -> Dict[str, float]:
    """Mean errors by corruption from those by (corruption, severity), with ``mean_error`` over all.

    ``mce``, the mean corruption error, is there if every one of the paper's 15 corruptions has all five severities.
    """
    of = {name: [error for (corruption, _), error in errors.items() if corruption == name] for name, _ in errors}
    means = {name: float(np.mean(values)) for name, values in of.items()}
    result = {**means, "mean_error": float(np.mean(list(means.values())))}
    if all(len(of.get(name, ())) == 5 for name in ALEXNET_ERRORS):
        result["mce"] = float(np.mean([means[name] / base for name, base in ALEXNET_ERRORS.items()]))
    return result

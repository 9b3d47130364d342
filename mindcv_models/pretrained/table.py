"""The published weights: names, addresses, licences and accuracy, from ``weights.tsv``.

A name is a model's and a tag, as timm has them: ``fastvit_sa12.dist_in1k``.
"""

import csv
import fnmatch
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from ..errors import InputError, nearest

__all__ = ["LICENCES", "Licence", "Weights", "choose_weights", "list_pretrained", "table"]


@dataclass(frozen=True)
class Licence:
    """The terms of published weights; ``commercial`` is False where they rule commercial use out."""

    text: str
    commercial: bool = True


LICENCES = {
    "apple": Licence("Apple's terms for the FastViT release"),
    "nvidia": Licence("NVIDIA Source Code License-NC and CC-BY-NC-SA-4.0", commercial=False),
    "apache": Licence("Apache-2.0"),
}


@dataclass(frozen=True)
class Weights:
    """A row of the table.

    Attributes:
        models: the models that load these weights.
        measure, published: the authors' figures in percent, such as "top-1" and "81.9".
        options: options of the model that the weights were trained with.
        addresses: where the file is; the others are tried if the first one fails.
    """

    models: Tuple[str, ...]
    tag: str
    measure: str
    published: str
    options: Dict[str, Any]
    licence: Licence
    addresses: Tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.models[0]}.{self.tag}"

    @property
    def file_name(self) -> str:
        """The file's name in the cache."""
        return Path(urlsplit(self.addresses[0]).path).name

    @property
    def fused(self) -> bool:
        """Whether they are of the inference form."""
        return self.tag.endswith("_reparam")


@lru_cache(maxsize=1)
def table() -> Tuple[Weights, ...]:
    """Every row, a model's preferred weights before its others."""
    with open(Path(__file__).with_name("weights.tsv"), encoding="utf-8") as file:
        return tuple(_weights(**row) for row in csv.DictReader(file, delimiter="\t"))


def _weights(models, tag, measure, published, options, licence, addresses) -> Weights:
    pairs = (pair.split("=") for pair in options.split())
    return Weights(
        tuple(models.split()), tag, measure, published, {key: _number(value) for key, value in pairs},
        LICENCES[licence], tuple(addresses.split()),
    )  # fmt: skip


def _number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def list_pretrained(pattern: str = "*") -> List[str]:
    """Names of published weights, ``model.tag``, that match a shell-style ``pattern``, such as ``"fastvit_*"``.

    A model's preferred weights, which its name without a tag stands for, come before its others.
    """
    names = (f"{model}.{row.tag}" for row in table() for model in row.models)
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def choose_weights(
    name: str, options: Optional[Mapping[str, Any]] = None
) -> Tuple[str, Optional[Weights], Dict[str, Any]]:
    """The published weights for a model of these options.

    Args:
        name: a model's name, with a tag behind its first dot or without.
        options: options that the model is to have; None is one that is not given.

    Returns:
        The model's name without the tag; the weights of that tag, or without one the preferred weights that were
        trained with these options, and None for a model that has no row; and the options with those of the weights.

    Raises:
        InputError: no weights have that tag, or all were trained with other options.
    """
    model, _, tag = name.partition(".")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    rows = [row for row in table() if model in row.models]
    tagged = [row for row in rows if row.tag == tag] if tag else rows
    if tag and not tagged:
        tags = [row.tag for row in rows]
        known = f"it has {', '.join(tags)}." if tags else "it has no published weights."
        raise InputError(f"{model} has no weights with the tag {tag!r}: {nearest(tag, tags, known)}")
    fitting = [row for row in tagged if all(given.get(key, value) == value for key, value in row.options.items())]
    if tagged and not fitting:
        row = tagged[0]
        trained = " ".join(f"{key}={value}" for key, value in row.options.items())
        others = " ".join(f"{key}={given[key]}" for key in row.options if key in given)
        raise InputError(
            f"{row.name} was trained with {trained}, not {others}: leave that out, or choose from list_pretrained()."
        )
    return (model, fitting[0], {**fitting[0].options, **given}) if fitting else (model, None, given)

"""YAML files with options: MindCV's recipes, this project's, and the one that a run leaves."""

import os
import stat
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

import yaml

from ..errors import InputError
from ..files import write_text
from .groups import titled_fields
from .values import show
from .yaml_text import parse_text

__all__ = ["read_recipe", "save_options"]

_LARGEST_FILE = 2**20

# Older names in recipes of MindCV's and of this project, and what their values stand for, if it is something else.
_OLD_NAMES = {
    "filter_bias_and_bn": ("weight_decay_filter", {True: "norm_and_bias", False: "disable"}),
    "dynamic_loss_scale": ("loss_scale_type", {True: "dynamic", False: "fixed"}),
    "rho": ("sophia_rho", None),
    "k": ("sophia_k", None),
}
# Keys of MindCV's recipes that mean nothing here: its cloud service, and a validation type of its own.
_IGNORED = {"enable_modelarts", "multi_data_url", "data_url", "ckpt_url", "train_url", "val_amp_level", "resume_opt"}


def read_recipe(path: str, complaint: Callable[[str], Optional[str]] = lambda key: None) -> Dict[str, Any]:
    """The values of a YAML file, over those of the file beside it that its key ``base`` names, if there is one.

    Args:
        complaint: what is wrong about a key, or None.

    Raises:
        InputError: it is no readable file of ``key: value`` lines, or a key is refused.
    """
    values = _read_mapping(Path(path), complaint)
    if "base" not in values:
        return values
    base = Path(path).parent / str(values.pop("base"))
    below = _read_mapping(base, complaint)
    if "base" in below:
        raise InputError(f"{base} is a base, but has a base itself: name {below['base']} in {path}.")
    return {**below, **values}


def _read_mapping(path: Path, complaint) -> Dict[str, Any]:
    text = _read_text(path)
    try:
        values = parse_text(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = f" ({error.problem})" if getattr(error, "problem", None) else ""
        raise InputError(f"{path}{line} is not YAML{reason}: write one `key: value` per line.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a YAML mapping: write one `key: value` per line.")
    resolved = {}
    for key, value in values.items():
        key = str(key)
        if key in _IGNORED:
            continue
        name, value = _current(key, value)
        reason = None if name == "base" else complaint(name)
        if reason:
            nested = isinstance(value, dict) and "keys are not grouped; write those below it without indentation."
            raise InputError(f"{path}: unknown key {show(key)}: {nested or reason}")
        if name in resolved:
            raise InputError(f"{path}: {key} is an older name of {name}, which is there too: leave one of them out.")
        resolved[name] = value
    return resolved


def _current(key, value):
    """Today's name of a key, and its value."""
    name, meaning = _OLD_NAMES.get(key, (key, None))
    if meaning is None:
        return name, value
    return name, meaning[str(value).lower() in ("true", "yes", "on", "1")]


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"the configuration {path} is not a regular file: give the path of a YAML file.")
        if path.exists() and path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"the configuration {path} has more than 1 MB: give the path of a YAML file of options.")
        encoded = path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the configuration {path} ({reason}): give the path of a YAML file.") from error
    try:
        text, wrong = encoded.decode("utf-8-sig"), encoded.find(b"\0")  # which UTF-16 without a mark is full of
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = encoded[:wrong].count(b"\n") + 1
        raise InputError(f"{path}, line {line} is not UTF-8: save the file as UTF-8 text.")
    return text


def save_options(options: Any, path: Union[str, os.PathLike]) -> None:
    """Write the resolved options as a YAML file that ``--config`` takes, under the titles of their groups."""
    lines = []
    for title, group in titled_fields(type(options)).items():
        lines += [f"# {title}", *(f"{f.name}: {_as_yaml(getattr(options, f.name))}" for f in group), ""]
    write_text(Path(path), "\n".join(lines))


class _Dumper(yaml.SafeDumper):
    """Text is quoted, so that it is not taken for a number."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'"))


def _as_yaml(value) -> str:
    text = yaml.dump(_plain(value), Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("...\n").strip()


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value

"""Options of scripts: a dataclass of typed fields, filled from a command line and, where there is one, a YAML file.

An option's value comes from the command line, else from the YAML file, else from its default. Groups of options in a
YAML file are comments only; the keys are flat.
"""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Type, TypeVar, get_type_hints

from ..errors import InputError, nearest
from .groups import Group, check_options, titled_fields
from .values import NOT_GIVEN, Words, convert
from .yaml_file import read_recipe

__all__ = ["parse", "peek"]

T = TypeVar("T")


def parse(cls: Type[T], description: str, arguments: Optional[Sequence[str]] = None) -> T:
    """The options that a command line gives, an instance of ``cls``, with its YAML file and the defaults behind it.

    Args:
        cls: a dataclass of :func:`mindcv_models.options.option` fields, of type bool, int, float, str, Any, or a tuple
            or mapping of these; tuples of ``Path`` too; ``Optional`` where None is a value. It takes ``--config``
            where :meth:`Group.scripts` names the scripts that share its YAML files; keys of theirs are passed over.
        arguments: the words of the command line; default: this process's.

    Raises:
        InputError: an unknown option, a value of the wrong type, out of range or not among the choices, options that
            do not go together, or no readable YAML file.
    """
    given = vars(_parser(cls, description).parse_args(arguments))
    config = given.pop("config", "")
    sources = [("", {name: Words(words) for name, words in given.items()})]
    if config:
        own = {f.name for f in fields(cls)}
        recipe = read_recipe(config, lambda key: None if key in own | _shared(cls) else suggest(key, cls))
        sources.insert(0, (f"{config}: ", {key: value for key, value in recipe.items() if key in own}))
    values = {}
    for source, words in sources:
        values.update(_typed(cls, words, source))
    options = cls(**{name: value for name, value in values.items() if value is not NOT_GIVEN})
    if isinstance(options, Group):
        options.settle()
    check_options(options)
    return options


def peek(name: str, arguments: Optional[Sequence[str]] = None) -> Optional[str]:
    """The text of one option, from the command line or the YAML file that it names; None where neither has it.

    Nothing else is looked at, so that a script can choose by it which options there are.

    Raises:
        InputError: the YAML file cannot be read.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-c", "--config")
    parser.add_argument(f"--{name}", nargs="*", dest="wanted")
    given = vars(parser.parse_known_args(arguments)[0])
    if "wanted" not in given and given.get("config"):
        given["wanted"] = [read_recipe(given["config"]).get(name, "")]
    return " ".join(map(str, given.get("wanted", []))) or None


def suggest(name: str, cls: type) -> str:
    """What to do about an option or key that ``cls`` does not have: its name here, or the nearest one."""
    dashes = re.match("-*", name)[0]
    plain = name[len(dashes) :].partition("=")[0].replace("-", "_").lower()
    if dashes and plain in ("c", "config"):
        return f"{Path(sys.argv[0]).name} reads no YAML file: give its options one by one, --help lists them."
    names = _names(cls)
    if plain in names:
        return f"did you mean {dashes}{names[plain]}?"
    script = Path(sys.argv[0]).name
    for other, options in getattr(cls, "scripts", dict)().items():
        theirs = _names(options)
        if plain in theirs and other != script:
            known = "" if theirs[plain] == plain else f"{dashes}{theirs[plain]}, "
            return f"it is {known}an option of {other}, and {script} does not use it; leave it out."
    known = {f.name for f in fields(cls)} | (set() if dashes else _shared(cls))
    return nearest(name.partition("=")[0], [dashes + option for option in sorted(known)], "see --help.")


def _names(cls) -> Dict[str, str]:
    """The options of ``cls`` by their own names and those that other projects have for them."""
    also = {other: f.name for f in fields(cls) for other in f.metadata["also"]}
    return {**also, **{f.name: f.name for f in fields(cls)}}


def _shared(cls) -> set:
    """The keys that the YAML files of ``cls`` may have for other scripts."""
    return {f.name for options in getattr(cls, "scripts", dict)().values() for f in fields(options)}


def _typed(cls, words, source) -> dict:
    types, known = get_type_hints(cls), {f.name: f for f in fields(cls)}
    try:
        return {name: convert(name, value, types[name], known[name].metadata) for name, value in words.items()}
    except InputError as error:
        raise InputError(f"{source}{error}") from error


class _Parser(argparse.ArgumentParser):
    options = Group

    def error(self, message):
        raise InputError(f"{message}. `{Path(sys.argv[0]).name} --help` lists the options.")

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            if not word.startswith("-"):
                given = "--config" if word.endswith((".yaml", ".yml")) else "its option"
                raise InputError(f"{word[:200]!r} belongs to no option: write {given} before it.")
            if re.match(r"-\.?\d", word):  # argparse knows -1 and -0.5 as numbers, but not -1e-3
                raise InputError(
                    f"{word[:200]!r} is taken for an option: join it to its own by =, as in --lr={word[:200]}."
                )
            raise InputError(f"unknown option {word[:200]}: {suggest(word, self.options)}")
        return known


def _parser(cls, description) -> _Parser:
    reads_files = bool(getattr(cls, "scripts", dict)())
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS, allow_abbrev=False,
        usage="%(prog)s [-c FILE] [--option VALUE ...]" if reads_files else "%(prog)s [--option VALUE ...]",
    )  # fmt: skip
    parser.options = cls
    if reads_files:
        parser.add_argument("-c", "--config", default="", metavar="FILE", help="YAML file with options")
    for title, group in titled_fields(cls).items():
        section = parser.add_argument_group(title)
        for f in group:
            section.add_argument(f"--{f.name}", nargs="*", metavar="VALUE", type=str, help=_help(f).replace("%", "%%"))
    return parser


def _help(f) -> str:
    choices: List = f.metadata["choices"] or []
    text = f.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")
    return text if f.default in (None, "", ()) else f"{text} [{f.default}]"

"""YAML whose unquoted scalars stay text, so that the type of an option decides what they mean, not YAML 1.1.

By itself YAML reads ``2e-1`` as text, ``010`` as 8, ``12:30`` as 750 and ``no`` as False.
"""

from typing import Any, Dict

import yaml

__all__ = ["Plain", "parse_text"]

_LARGEST = 100_000  # values in a document


class Plain(str):
    """Text that was not quoted: where an option's type leaves it open, it may be a number, a truth value or nothing."""


class _Loader(yaml.SafeLoader):
    # Nothing but the merge key `<<` is recognised by its looks.
    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}

    def construct_mapping(self, node, deep=False):
        """A mapping, unless it has a key twice: YAML would take the last one without a word."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode) and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _construct_text(loader, node):
    return Plain(node.value) if node.style is None else loader.construct_scalar(node)


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)


def _written_out(value: Any, known: Dict[int, int]) -> int:
    """How many values there are when each alias is written out; a few lines can stand for thousands of millions."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _LARGEST  # until it is counted: one that has itself within it has no end
        known[id(value)] = 1 + sum(
            _written_out(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]


def parse_text(text: str) -> Any:
    """What a YAML document says: mappings, lists and text, :class:`Plain` where it was not quoted.

    Raises:
        yaml.YAMLError: it is not YAML, too deeply nested, or with its aliases written out larger than any recipe.
    """
    try:
        value = yaml.load(text, _Loader)
        if _written_out(value, {}) > _LARGEST:
            raise yaml.MarkedYAMLError(problem="its aliases stand for too much")
        return value
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error
    except (ValueError, TypeError) as error:  # an explicit tag on something else, or a key that is a list
        raise yaml.YAMLError(str(error)) from error

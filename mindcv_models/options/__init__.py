"""Options of the scripts: typed, from a command line and a YAML file."""

from .config import IMAGENET_MEAN, IMAGENET_STD, Options, check_preparation, parse_options, save_options
from .parse import option, parse, show

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Options",
    "check_preparation",
    "option",
    "parse",
    "parse_options",
    "save_options",
    "show",
]

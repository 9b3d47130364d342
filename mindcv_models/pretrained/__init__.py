"""Published weights by name: where they are, and how they come into a cache on this machine."""

from .cache import Source, fetch
from .table import LICENCES, Licence, Weights, choose_weights, list_pretrained, table

__all__ = ["LICENCES", "Licence", "Source", "Weights", "choose_weights", "fetch", "list_pretrained", "table"]

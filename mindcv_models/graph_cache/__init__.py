"""Compiled graphs that a later process finds again, by everything that they are made of."""

from .cache import VARIABLE, call_cached, compile_cached, use_graph_cache
from .describe import UndescribedError, fingerprint

__all__ = ["VARIABLE", "UndescribedError", "call_cached", "compile_cached", "fingerprint", "use_graph_cache"]

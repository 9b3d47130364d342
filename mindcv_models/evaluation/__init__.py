"""Evaluation that counts every image exactly once."""

from .validate import Evaluator, Metrics

__all__ = ["Evaluator", "Metrics"]

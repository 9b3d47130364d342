"""Evaluation that counts every image exactly once."""

from .validate import Evaluator, Metrics, build_validation, cast_network

__all__ = ["Evaluator", "Metrics", "build_validation", "cast_network"]

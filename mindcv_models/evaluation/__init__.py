"""Evaluation that counts every image exactly once."""

from .options import ValidateOptions
from .predict import VIEWS, Predictions, Predictor, probabilities
from .study import Study, csv_table, markdown_table, write_text
from .validate import Evaluator, Metrics, build_validation, cast_network

__all__ = [
    "VIEWS",
    "Evaluator",
    "Metrics",
    "Predictions",
    "Predictor",
    "Study",
    "ValidateOptions",
    "build_validation",
    "cast_network",
    "csv_table",
    "markdown_table",
    "probabilities",
    "write_text",
]

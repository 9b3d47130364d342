"""What every task's evaluation shares: results, tables and figures."""

from .figures import new_figure, save_figure
from .result import Result, Validator
from .tables import Row, csv_table, csv_text, json_text, markdown_table

__all__ = [
    "Result",
    "Row",
    "Validator",
    "csv_table",
    "csv_text",
    "json_text",
    "markdown_table",
    "new_figure",
    "save_figure",
]

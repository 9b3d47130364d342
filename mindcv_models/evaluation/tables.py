"""Rows of results as CSV and Markdown."""

import csv
import io
from typing import Any, Dict, List

__all__ = ["Row", "csv_table", "markdown_table"]

Row = Dict[str, Any]


def csv_table(rows: List[Row]) -> str:
    """Rows as CSV with a header; floats with six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def markdown_table(rows: List[Row]) -> str:
    """Rows as a Markdown table; fractions in per cent, the loss with four digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(name, value) for name, value in row.items()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(name, value):
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f}"

"""Rows of results as CSV, JSON and Markdown."""

import csv
import io
import json
from typing import Any, Dict, Iterable, List, Sequence

__all__ = ["Row", "csv_table", "csv_text", "json_text", "markdown_table"]

Row = Dict[str, Any]


def csv_table(rows: List[Row]) -> str:
    """Rows as CSV with a header, the columns of the first; floats with six digits."""
    return csv_text(
        list(rows[0]), ({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    )


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """These columns of rows as CSV with a header; what a row does not have, or is None, stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_text(value: Any, indent: int = 1) -> str:
    """A value as JSON in UTF-8, indented, with a line end."""
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def markdown_table(rows: List[Row]) -> str:
    """Rows as a Markdown table; fractions in per cent, the loss with four digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(name, value) for name, value in row.items()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(name, value):
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f}"

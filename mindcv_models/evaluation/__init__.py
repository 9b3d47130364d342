"""What every task's evaluation shares: tables and figures."""

from .figures import new_figure, save_figure
from .tables import Row, csv_table, markdown_table

__all__ = ["Row", "csv_table", "markdown_table", "new_figure", "save_figure"]

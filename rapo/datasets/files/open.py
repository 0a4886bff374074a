"""Opening: any label file as a table, by its content."""

from __future__ import annotations

from pathlib import Path

from rapo.datasets.files.arrow_table import open_arrow_table, open_parquet_table
from rapo.datasets.files.columns import ALIASES
from rapo.datasets.files.json_rows import open_json_table
from rapo.datasets.files.raw_table import RawTable
from rapo.datasets.files.sniff import sniff
from rapo.datasets.files.text import open_text_table
from rapo.datasets.files.xlsx import open_xlsx_table
from rapo.errors import DataError

_KNOWN = frozenset(name for names in ALIASES.values() for name in names)


def open_table(path: Path) -> RawTable:
    """The table in a file. Raises `DataError` where there is none, and says what there is."""
    kind = sniff(path)
    if kind == "text":
        return open_text_table(path, _KNOWN)
    if kind == "json":
        return open_json_table(path)
    if kind == "parquet":
        return open_parquet_table(path)
    if kind == "arrow":
        return open_arrow_table(path)
    if kind == "xlsx":
        return open_xlsx_table(path)
    raise DataError(f"{path} is a MATLAB file and holds no table; save it as CSV")

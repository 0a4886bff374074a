"""Opening: any label file as a table, by its content.

- What the libraries raise over a damaged file, now or while its rows are read, is a `DataError` of
  one line.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa

from rapo.datasets.files.arrow_table import open_arrow_table, open_parquet_table
from rapo.datasets.files.columns import ALIASES
from rapo.datasets.files.json_rows import open_json_table
from rapo.datasets.files.raw_table import Batch, RawTable
from rapo.datasets.files.sniff import not_utf8, sniff
from rapo.datasets.files.text import open_text_table
from rapo.datasets.files.xlsx import open_xlsx_table
from rapo.errors import DataError
from rapo.util.brief import brief_error

_KNOWN = frozenset(name for names in ALIASES.values() for name in names)
#: What the readers' libraries raise over damaged files; `ValueError` is that of pyarrow and of
#: Unicode.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RecursionError,
    MemoryError,
    NotImplementedError,
    csv.Error,
    zlib.error,
    zipfile.BadZipFile,
    ElementTree.ParseError,
    pa.ArrowException,
)


def open_table(path: Path) -> RawTable:
    """The table in a file. Raises `DataError` where there is none, and says what there is."""
    with _damage_named(path):
        table = _open(path)

    def rows(columns: Sequence[str]) -> Iterator[Batch]:
        with _damage_named(path):
            yield from table.rows(columns)

    return replace(table, rows=rows)


def _open(path: Path) -> RawTable:
    kind = sniff(path)
    if kind == "text":
        return open_text_table(path, _KNOWN)
    if kind == "json":
        return open_json_table(path, ALIASES.values())
    if kind == "parquet":
        return open_parquet_table(path)
    if kind == "arrow":
        return open_arrow_table(path)
    if kind == "xlsx":
        return open_xlsx_table(path)
    raise DataError(f"{path} is a MATLAB file and holds no table; save it as CSV")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        with _damage_named(path):
            raise not_utf8(path, error) from error
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged or cut: {brief_error(error)}. Write or download it again") from error

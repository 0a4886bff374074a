"""Excel tables: the first sheet of an .xlsx file as text cells.

The installed packages hold no reader of .xlsx files. This one knows what label tables need: shared
and inline strings, numbers, and cells that are left out.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from rapo.datasets.files.raw_table import BATCH, Batch, RawTable
from rapo.errors import DataError
from rapo.util.brief import brief_error

_STRINGS = "xl/sharedStrings.xml"
_SHEET = re.compile(r"xl/worksheets/sheet(\d+)\.xml$")
_LETTERS = re.compile(r"[A-Z]+")
#: The unpacked size that a sheet may have, against archives made to fill the memory.
_MAX_BYTES = 1 << 30


def open_xlsx_table(path: Path) -> RawTable:
    """The first sheet of a file as a table; its first row is the header. Raises `DataError` where
    the file is damaged."""
    columns = tuple(cell.strip() for cell in next(_rows(path), (0, []))[1])

    def rows(wanted: Sequence[str]) -> Iterator[Batch]:
        at = [columns.index(name) for name in wanted]
        numbers: list[int] = []
        cells: list[list[str]] = []

        def batch() -> Batch:
            return Batch(
                np.array(numbers, np.int64),
                {
                    name: pa.array([row[i] if i < len(row) else "" for row in cells], pa.large_string())
                    for name, i in zip(wanted, at, strict=True)
                },
            )

        body = _rows(path)
        next(body, None)
        for number, row in body:
            numbers.append(number)
            cells.append(row)
            if len(numbers) == BATCH:
                yield batch()
                numbers, cells = [], []
        if numbers:
            yield batch()

    return RawTable(path, "xlsx", columns, "row", rows, comma=True)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that holds something, with its number in the sheet."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MAX_BYTES:
                raise DataError(f"{path} unpacks to over a GiB; save the sheet as CSV")
            sheets = sorted((int(m[1]), name) for name in archive.namelist() if (m := _SHEET.search(name)))
            if not sheets:
                raise DataError(f"{path} holds no sheet; save the table as CSV")
            strings = _shared(archive) if _STRINGS in archive.namelist() else []
            with archive.open(sheets[0][1]) as sheet:
                for _, element in ElementTree.iterparse(sheet):
                    if _tag(element) == "row":
                        cells = _cells(element, strings)
                        if any(cells):
                            yield int(element.get("r", "0")), cells
                        element.clear()
    except (zipfile.BadZipFile, ElementTree.ParseError, ValueError, IndexError, OSError) as error:
        raise DataError(f"{path} is not a readable Excel file ({brief_error(error)}); save the sheet as CSV") from error


def _cells(row: ElementTree.Element, strings: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if match := _LETTERS.match(cell.get("r", "")):
            column = 0
            for letter in match[0]:
                column = column * 26 + ord(letter) - ord("A") + 1
            cells += [""] * (column - 1 - len(cells))
        value = "".join(part.text or "" for part in cell.iter() if _tag(part) in ("v", "t"))
        cells.append(strings[int(value)] if value and cell.get("t") == "s" else value)
    return cells


def _shared(archive: zipfile.ZipFile) -> list[str]:
    with archive.open(_STRINGS) as file:
        items = [item for item in ElementTree.parse(file).getroot() if _tag(item) == "si"]
    return ["".join(part.text or "" for part in item.iter() if _tag(part) == "t") for item in items]


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]

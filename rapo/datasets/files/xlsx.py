"""Excel tables: the first sheet of an .xlsx file as text cells.

- The installed packages hold no reader of .xlsx files. This one knows what label tables need:
  shared and inline strings, numbers, and cells that are left out.
- The first sheet is the first that a user sees. That others hold rows as well is said.
- How a word is spoken, which Excel keeps beside words in Japanese, is no part of it.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from rapo.datasets.files.raw_table import BATCH, Batch, RawTable
from rapo.errors import DataError
from rapo.util.brief import brief_error

_STRINGS = "xl/sharedStrings.xml"
_BOOK, _TARGETS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
_SHEET = re.compile(r"xl/worksheets/sheet(\d+)\.xml$")
_LETTERS = re.compile(r"[A-Z]+")
#: The unpacked size that a sheet may have, against archives made to fill the memory.
_MAX_BYTES = 1 << 30


def open_xlsx_table(path: Path) -> RawTable:
    """The first sheet of a file as a table; its first row is the header. Raises `DataError` where
    the file is damaged."""
    columns = tuple(cell.strip() for cell in next(_rows(path), (0, []))[1])
    others = _other_sheets(path)
    notes = [f"{path.name}: only its first sheet is read; of the others, {others} hold rows"] if others else []

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

    return RawTable(path, "xlsx", columns, "row", rows, comma=True, notes=tuple(notes))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row of the first sheet that holds something, with its number in the sheet."""
    with _opened(path) as archive:
        strings = _shared(archive) if _STRINGS in archive.namelist() else []
        yield from _sheet_rows(archive, _sheets(archive)[0], strings)


def _other_sheets(path: Path) -> int:
    """How many sheets beside the first hold a row."""
    with _opened(path) as archive:
        return sum(any(True for _ in _sheet_rows(archive, name, None)) for name in _sheets(archive)[1:])


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MAX_BYTES:
                raise DataError(f"{path} unpacks to over a GiB; save the sheet as CSV")
            if not _sheets(archive):
                raise DataError(f"{path} holds no sheet; save the table as CSV")
            yield archive
    except (zipfile.BadZipFile, ElementTree.ParseError, LookupError, ValueError, OSError) as error:
        raise DataError(f"{path} is not a readable Excel file ({brief_error(error)}); save the sheet as CSV") from error


def _sheets(archive: zipfile.ZipFile) -> list[str]:
    """The sheets in the order of their tabs; in that of their numbers where it is not told."""
    there = {name: int(match[1]) for name in archive.namelist() if (match := _SHEET.search(name))}
    if not {_BOOK, _TARGETS} <= set(archive.namelist()):
        return sorted(there, key=lambda name: there[name])
    targets = {item.get("Id"): item.get("Target", "") for item in ElementTree.fromstring(archive.read(_TARGETS))}
    tabs = [item for item in ElementTree.fromstring(archive.read(_BOOK)).iter() if _tag(item) == "sheet"]
    ids = (next((value for key, value in tab.items() if key.endswith("}id")), "") for tab in tabs)
    names = [posixpath.normpath(posixpath.join("/xl", targets.get(one, ""))).lstrip("/") for one in ids]
    known = [name for name in names if name in there]  # and no charts
    return [*known, *sorted(set(there) - set(known), key=lambda name: there[name])]


def _sheet_rows(archive: zipfile.ZipFile, name: str, strings: list[str] | None) -> Iterator[tuple[int, list[str]]]:
    """The rows of a sheet that hold something. Without `strings`, their cells are not told."""
    number = 0
    with archive.open(name) as sheet:
        for _, element in ElementTree.iterparse(sheet):
            if _tag(element) == "row":
                number = int(element.get("r", number + 1))
                cells = _cells(element, strings)
                if any(cells):
                    yield number, cells
                element.clear()


def _cells(row: ElementTree.Element, strings: list[str] | None) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if match := _LETTERS.match(cell.get("r", "")):
            column = 0
            for letter in match[0]:
                column = column * 26 + ord(letter) - ord("A") + 1
            cells += [""] * (column - 1 - len(cells))
        value = _text(cell)
        cells.append(strings[int(value)] if value and strings is not None and cell.get("t") == "s" else value)
    return cells


def _text(element: ElementTree.Element) -> str:
    """The text of a cell or a shared string, without how it is spoken."""
    if _tag(element) in ("v", "t"):
        return element.text or ""
    return "".join(_text(part) for part in element if _tag(part) != "rPh")


def _shared(archive: zipfile.ZipFile) -> list[str]:
    with archive.open(_STRINGS) as file:
        items = [item for item in ElementTree.parse(file).getroot() if _tag(item) == "si"]
    return list(map(_text, items))


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]

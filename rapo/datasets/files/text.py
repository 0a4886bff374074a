"""Text tables: cells separated by comma, semicolon, tab, "=", or whitespace.

- The delimiter and whether there is a header are told from the first lines. A `sep=` line, as Excel
  writes it, is obeyed.
- Quotation marks are read strictly: one that is left open would swallow the rows behind it.
- A table that whitespace separates may have spaces in its first cell.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from rapo.datasets.files.cells import is_number
from rapo.datasets.files.raw_table import BATCH, Batch, RawTable
from rapo.datasets.files.sniff import not_utf8, open_text
from rapo.errors import DataError

_DELIMITERS = ",;\t="
_SPACES = " "
#: Lines at the head of a file that tell its delimiter.
_SAMPLE = 200
_SEP = re.compile(r"sep=(.)\s*$", re.IGNORECASE)
_IMAGE = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)$", re.IGNORECASE)


def open_text_table(path: Path, known: frozenset[str]) -> RawTable:
    """A text file as a table. `known` are names that only a header has (in lower case). Raises
    `DataError` where the text cannot be read."""
    try:
        with open_text(path) as file:
            lines = _sample(file)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    declared, skip = "", 0
    if lines and (match := _SEP.match(lines[0])):
        declared, skip = match[1], 1
    full = [line for line in lines[skip:] if line.strip()]
    delimiter = declared or _delimiter(full)
    head = next(_split(iter(full), delimiter, len(full[0].split())), []) if full else []
    header = _is_header(head, known)
    columns = tuple(name.strip() for name in head) if header else tuple(str(i + 1) for i in range(len(head)))

    def rows(wanted: Sequence[str]) -> Iterator[Batch]:
        return _rows(path, delimiter, columns, wanted, skip=skip, header=header)

    return RawTable(path, "text", columns, "line", rows, comma=delimiter != ",", without_header=not header)


def _sample(file: IO[str]) -> list[str]:
    return [line for line, _ in zip(file, range(_SAMPLE), strict=False)]


def _delimiter(lines: list[str]) -> str:
    """The delimiter that every line has equally often, most often; whitespace where there is
    none."""
    if not lines:
        return ","
    body = lines[: max(1, len(lines) - 1)]  # the last line may be cut
    best, most = _SPACES, 0
    for mark in _DELIMITERS:
        counts = [line.count(mark) for line in body]
        if counts[0] > most and sum(count >= counts[0] for count in counts) >= 0.9 * len(counts):
            best, most = mark, counts[0]
    if not most and max(map(lines[0].count, _DELIMITERS)):
        return max(_DELIMITERS, key=lines[0].count)
    return best


def _split(lines: Iterator[str], delimiter: str, columns: int) -> Iterator[list[str]]:
    if delimiter != _SPACES:
        return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    return (line.strip().rsplit(None, columns - 1) if line.strip() else [] for line in lines)


def _is_header(head: list[str], known: frozenset[str]) -> bool:
    """Whether the first row names columns: it holds no number, or a name that only headers have."""
    cells = [cell.strip() for cell in head]
    if any(cell.lower() in known for cell in cells):
        return True
    return not any(is_number(cell, comma=True) or _IMAGE.search(cell) for cell in cells)


def _rows(
    path: Path, delimiter: str, columns: tuple[str, ...], wanted: Sequence[str], *, skip: int, header: bool
) -> Iterator[Batch]:
    places = [columns.index(name) for name in wanted]
    with open_text(path) as file:
        try:
            for numbers, rows in _batches(path, _numbered(path, file, delimiter, len(columns), skip), header):
                cells = list(zip(*rows, strict=True))
                yield Batch(
                    np.array(numbers, np.int64),
                    {name: pa.array(cells[at], pa.large_string()) for name, at in zip(wanted, places, strict=True)},
                )
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from error


def _batches(
    path: Path, rows: Iterator[tuple[int, list[str]]], header: bool
) -> Iterator[tuple[list[int], list[list[str]]]]:
    if header:
        next(rows, None)
    numbers: list[int] = []
    cells: list[list[str]] = []
    for number, row in rows:
        numbers.append(number)
        cells.append(row)
        if len(numbers) == BATCH:
            yield numbers, cells
            numbers, cells = [], []
    if numbers:
        yield numbers, cells


def _numbered(path: Path, file: IO[str], delimiter: str, width: int, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank with its first line, padded or cut to `width` cells."""
    for _ in range(skip):
        next(file)
    lines = _Remembering(file) if delimiter != _SPACES else file
    reader = _split(iter(lines), delimiter, width)
    last = skip
    try:
        for number, row in enumerate(reader, start=skip + 1):
            if isinstance(lines, _Remembering):
                number, last = last + 1, lines.count + skip
                if last != number:
                    _check_cell_of_lines(path, number, last, row, delimiter, width)
            if len(row) != width:
                if not row:
                    continue
                if any(cell.strip() for cell in row[width:]):
                    raise DataError(
                        f"{path}: line {number} has {len(row)} cells where the header has {width}; quote cells that hold "
                        "the delimiter"
                    )
                row = [*row[:width], *[""] * (width - len(row))]
            if not any(row) or not any(map(str.strip, row)):
                continue
            yield number, row
    except csv.Error as error:
        raise DataError(
            f"{path}: line {last + 1} opens a quotation mark that is not closed where its cell ends ({error}). Remove the "
            "mark, or double it inside a quoted cell"
        ) from error


class _Remembering:
    """The lines of a file, counted."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.count += 1
            yield line


def _check_cell_of_lines(path: Path, first: int, last: int, row: list[str], delimiter: str, width: int) -> None:
    """A cell may span lines, such as a caption; but not where rows were swallowed."""
    inner = chain.from_iterable(cell.splitlines()[1:] for cell in row if "\n" in cell)
    if any(line.count(delimiter) >= width - 1 for line in inner):
        raise DataError(
            f"{path}: a cell reaches from line {first} to line {last} and holds whole rows: a quotation mark in line {first} "
            "is left open. Remove it"
        )

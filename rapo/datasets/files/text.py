"""Text tables: cells separated by comma, semicolon, tab, "=", or whitespace.

- The delimiter and whether there is a header are told from the first lines. A `sep=` line, as Excel
  writes it, is obeyed. Comments before the header (#) are passed over, which is said.
- Quotation marks are read strictly: one that is left open would swallow the rows behind it.
- A table that whitespace separates may have spaces in its first cell.
- Arrow reads what is as plain as most tables are (`rapo.datasets.files.text_blocks`).
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import pyarrow as pa

from rapo.datasets.files.cells import is_number
from rapo.datasets.files.raw_table import BATCH, Batch, RawTable
from rapo.datasets.files.sniff import ByteStream, not_utf8, open_bytes, open_text
from rapo.datasets.files.text_blocks import SPACES, BlockReader, after_head, blocks, line_ends
from rapo.errors import DataError

_DELIMITERS = ",;\t="
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
    else:
        skip = sum(1 for _ in takewhile(lambda line: _is_comment(line, known), lines))
    full = [line for line in lines[skip:] if line.strip()]
    delimiter = declared or _delimiter(full)
    try:
        head = next(_split(full, delimiter, _spaced_width(full, known)), []) if full else []
    except csv.Error as error:
        raise _open_quote(path, lines.index(full[0]) + 1, error) from error
    header = _is_header(head, known)
    columns = tuple(name.strip() for name in head) if header else tuple(str(i + 1) for i in range(len(head)))

    def rows(wanted: Sequence[str]) -> Iterator[Batch]:
        return _rows(path, delimiter, columns, wanted, skip=skip, header=header)

    notes = [f"{path.name}: the lines before its header that begin with # are passed over: {skip}"]
    return RawTable(
        path,
        "text",
        columns,
        "line",
        rows,
        comma=delimiter != ",",
        without_header=not header,
        notes=tuple(notes if skip and not declared else ()),
    )


def _sample(file: IO[str]) -> list[str]:
    return [line for line, _ in zip(file, range(_SAMPLE), strict=False)]


def _is_comment(line: str, known: frozenset[str]) -> bool:
    """Whether a line is neither a header nor a row, although it begins with #."""
    cells = [cell.strip("# \n") for cell in re.split("[,;\t]", line)]
    return line.startswith("#") and not any(cell.lower() in known or _IMAGE.search(cell) for cell in cells)


def _delimiter(lines: list[str]) -> str:
    """The delimiter that every line has equally often, most often; whitespace where there is
    none."""
    if not lines:
        return ","
    body = lines[: max(1, len(lines) - 1)]  # the last line may be cut
    best, most = SPACES, 0
    for mark in _DELIMITERS:
        counts = [line.count(mark) for line in body]
        if counts[0] > most and sum(count >= counts[0] for count in counts) >= 0.9 * len(counts):
            best, most = mark, counts[0]
    if not most and max(map(lines[0].count, _DELIMITERS)):
        return max(_DELIMITERS, key=lines[0].count)
    return best


def _spaced_width(lines: list[str], known: frozenset[str]) -> int:
    """The number of cells that whitespace separates: those of a header, or else the numbers at a
    line's end and the name before them, as most lines have them."""
    if known & {piece.lower() for piece in lines[0].split()}:
        return len(lines[0].split())
    widths: Counter[int] = Counter()
    for line in lines:
        pieces = line.split()
        numbers = sum(1 for _ in takewhile(is_number, reversed(pieces)))
        widths[min(numbers + 1, len(pieces))] += 1
    return max(widths, key=lambda width: (widths[width], width))


class _Rows(Protocol):
    """Rows of cells; `line_num` counts the lines that were read."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


class _SpacedRows:
    """Rows whose cells are separated by whitespace; the first cell may hold some."""

    def __init__(self, lines: Iterable[str], width: int) -> None:
        self._lines = iter(lines)
        self._splits = width - 1
        self.line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines).strip()
        self.line_num += 1
        return line.rsplit(None, self._splits) if line else []


def _split(lines: Iterable[str], delimiter: str, width: int) -> _Rows:
    if delimiter == SPACES:
        return _SpacedRows(lines, width)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)


def _is_header(head: list[str], known: frozenset[str]) -> bool:
    """Whether the first row names columns: it holds no number, or a name that only headers have."""
    cells = [cell.strip() for cell in head]
    if any(cell.lower() in known for cell in cells):
        return True
    return len(cells) > 1 and not any(is_number(cell, comma=True) or _IMAGE.search(cell) for cell in cells)


def _rows(
    path: Path, delimiter: str, columns: tuple[str, ...], wanted: Sequence[str], *, skip: int, header: bool
) -> Iterator[Batch]:
    table = _Table(path, delimiter, len(columns), {name: columns.index(name) for name in wanted})
    try:
        if table.plain:
            with open_bytes(path) as file:
                if (head := after_head(file, skip, header=header)) is not None:
                    yield from _in_blocks(table, file, *head)
                    return
        with open_text(path) as text:
            for _ in range(skip):
                next(text)
            reader = _Reader(table, text, skip)
            while header and (first := reader.read(1)) is not None and not first:
                continue
            yield from reader.batches()
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


@dataclass(frozen=True, slots=True)
class _Table:
    """A text table of `width` columns, and where the wanted ones are."""

    path: Path
    delimiter: str
    width: int
    at: dict[str, int]

    @property
    def plain(self) -> bool:
        """Whether Arrow may read it."""
        return self.width > 1 and bool(self.at) and self.delimiter in (*_DELIMITERS, SPACES)


def _in_blocks(table: _Table, file: ByteStream, start: int, before: int) -> Iterator[Batch]:
    """The rows from the offset `start` on, behind the first `before` lines."""
    reader = BlockReader(table.delimiter, table.width, list(table.at.values()))
    file.seek(start)
    for at, block in blocks(file, start):
        if not reader.encloses(block):
            file.seek(at)
            yield from _Reader(table, io.TextIOWrapper(file, encoding="utf-8"), before).batches()
            return
        cells = reader.cells(block)
        if cells is None:
            yield from _Reader(table, io.StringIO(block.decode("utf-8"), newline=None), before).batches()
        else:
            places = np.arange(before + 1, before + 1 + len(cells[0]), dtype=np.int64)
            yield Batch(places, dict(zip(table.at, cells, strict=True)))
        before += line_ends(block)


def _open_quote(path: Path, line: int, error: csv.Error) -> DataError:
    return DataError(
        f"{path}: line {line} opens a quotation mark that is not closed where its cell ends ({error}). Remove the mark, or "
        "double it inside a quoted cell"
    )


class _Reader:
    """The rows of a text that are not blank, each of the table's width; `numbers` are the lines
    that the rows of the last `read` begin in, where `before` lines come before the text."""

    def __init__(self, table: _Table, text: IO[str], before: int) -> None:
        self._table = table
        self._before = before
        self._rows = _split(text, table.delimiter, table.width)
        self.numbers: Sequence[int] = ()

    def batches(self) -> Iterator[Batch]:
        """The rows that are left."""
        while (rows := self.read(BATCH)) is not None:
            if rows:
                cells = {
                    name: pa.array([row[i] for row in rows], pa.large_string()) for name, i in self._table.at.items()
                }
                yield Batch(np.array(self.numbers, np.int64), cells)

    def read(self, most: int) -> list[list[str]] | None:
        """Up to `most` rows without the blank ones among them; None at the end."""
        rows: list[list[str]] = []
        ends = [self._rows.line_num]
        try:
            for row in islice(self._rows, most):
                rows.append(row)
                ends.append(self._rows.line_num)
        except csv.Error as error:
            raise _open_quote(self._table.path, ends[-1] + 1 + self._before, error) from error
        if not rows:
            return None
        first, last = ends[0] + self._before, ends[-1] + self._before
        if (
            last - first == len(rows)
            and set(map(len, rows)) == {self._table.width}
            and all(any(map(str.strip, row)) for row in rows)
        ):
            self.numbers = range(first + 1, last + 1)
            return rows
        return self._checked(rows, [end + self._before for end in ends])

    def _checked(self, rows: list[list[str]], ends: list[int]) -> list[list[str]]:
        """The rows that are not blank, where some span lines or have more or fewer cells."""
        kept, numbers, width = [], [], self._table.width
        for row, before, end in zip(rows, ends[:-1], ends[1:], strict=True):
            if end - before > 1:
                self._check_cell_of_lines(before + 1, end, row)
            if any(cell.strip() for cell in row[width:]):
                raise DataError(
                    f"{self._table.path}: line {before + 1} has {len(row)} cells where the header has {width}; quote cells "
                    "that hold the delimiter"
                )
            if any(map(str.strip, row)):
                kept.append([*row[:width], *[""] * (width - len(row))])
                numbers.append(before + 1)
        self.numbers = numbers
        return kept

    def _check_cell_of_lines(self, first: int, last: int, row: list[str]) -> None:
        """A cell may span lines, such as a caption; but not where rows were swallowed."""
        inner = chain.from_iterable(cell.splitlines()[1:] for cell in row if "\n" in cell)
        if any(line.count(self._table.delimiter) >= self._table.width - 1 for line in inner):
            raise DataError(
                f"{self._table.path}: a cell reaches from line {first} to line {last} and holds whole rows: a quotation "
                f"mark in line {first} is left open. Remove it"
            )

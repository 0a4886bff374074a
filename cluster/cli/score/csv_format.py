"""CSV: the output of `rapo score` as text, also after a spreadsheet saved it.

- One line an image: what would end a line becomes an escape (`rapo.util.printable`).
- A spreadsheet may have added a byte order mark or a `sep=` line, changed the delimiter to a
  semicolon or a tab, the decimal point to a comma, `True` to `TRUE` or `WAHR`, moved or removed
  columns, and added columns, blank rows and blank cells.
- The user's own columns come back as they were.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from cluster.cli.score.row import FLAGS, NUMBERS, REQUIRED, TEXTS
from rapo.util.printable import clipped, from_printable, printable

_DELIMITERS = (",", ";", "\t")
_SEP = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_LONGEST_CELL = 1 << 24

#: Truth values as spreadsheets of several languages write them.
_TRUE = frozenset({"true", "1", "wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar", "sant", "prawda"})
_FALSE = frozenset({"false", "0", "falsch", "faux", "falso", "onwaar", "falskt", "fałsz"})


class _Lines:
    """A file for `csv.writer`. Rows end in CRLF there, so that a cell with either is quoted."""

    def __init__(self) -> None:
        self.text = io.StringIO()

    def write(self, row: str) -> None:
        self.text.write(row.removesuffix("\r\n") + "\n")


def encode_csv(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> bytes:
    """The table in UTF-8."""
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(name, row.get(name)) for name in columns] for row in rows)
    return lines.text.getvalue().encode("utf-8", errors="backslashreplace")


def decode_csv(data: bytes) -> list[dict[str, object]]:
    """The rows by column. Raises `ValueError` or `csv.Error` for what is no table of
    `rapo score`."""
    text = _decoded(data)
    csv.field_size_limit(_LONGEST_CELL)
    if declared := _SEP.match(text):
        text = text[declared.end() :]
    delimiters = declared[1] if declared else _DELIMITERS
    records = next((found for mark in delimiters if (found := _records(text, mark)) is not None), None)
    if records is None:
        raise ValueError(f"its first line lacks {', '.join(sorted(REQUIRED))}")
    header = _unique(next(records, []))
    rows = []
    for number, record in enumerate(records, start=2):
        if any(record):
            columns = _unique([*header, *[""] * (len(record) - len(header))])
            cells = dict(zip(columns, record, strict=False))
            rows.append({name: _value(name, cell, number) for name, cell in cells.items() if name or cell})
    return _without_blank_columns(rows)


def _cell(name: str, value: object) -> object:
    if name == "image" or not isinstance(value, str):
        return value  # a name is printable already
    return printable(value) if name in TEXTS else value


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8: save it from the spreadsheet as 'CSV UTF-8'") from error


def _records(text: str, delimiter: str) -> Iterator[list[str]] | None:
    """The records, header first; None if the header lacks what a table must have."""
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    if not {name.strip() for name in header} >= REQUIRED:
        return None
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _unique(header: Sequence[str]) -> list[str]:
    """Names of columns; one that is missing or there already gets a number."""
    names: list[str] = []
    for place, name in enumerate(map(str.strip, header), start=1):
        plain = name or f"column_{place}"
        names.append(plain if plain not in names else f"{plain}_{place}")
    return names


def _value(name: str, cell: str, line: int) -> object:
    if name == "image":
        return cell
    if name in TEXTS:
        return from_printable(cell)
    if name not in NUMBERS | FLAGS:
        return cell
    word = cell.strip()
    if not word:
        return None
    value = _flag(word) if name in FLAGS else _number(word)
    if value is None or (name == "aesthetic_score" and not 0 <= value <= 1):
        kind = "no truth value" if name in FLAGS else "no number" if value is None else "not in [0, 1]"
        raise ValueError(f"row {line}: {name} is {clipped(cell, 60)}, {kind}; did a spreadsheet change it?")
    return value


def _number(word: str) -> float | None:
    if word.count(",") == 1 and "." not in word:
        word = word.replace(",", ".")
    if "_" in word:  # Python's own mark between digits
        return None
    try:
        return float(word)
    except ValueError:
        return None


def _flag(word: str) -> bool | None:
    folded = word.casefold()
    return True if folded in _TRUE else False if folded in _FALSE else None


def _without_blank_columns(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Leave out columns without a name in which no row has a cell."""
    blank = {name for row in rows for name in row if re.fullmatch(r"column_\d+", name)}
    blank -= {name for row in rows for name in blank if row.get(name)}
    return [{name: cell for name, cell in row.items() if name not in blank} for row in rows]

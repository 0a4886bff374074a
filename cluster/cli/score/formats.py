"""Formats: the output of `rapo score` as a CSV, JSON lines or Parquet file, written and read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cluster.cli.score.csv_format import decode_csv, encode_csv
from cluster.cli.score.row import FLAGS, NUMBERS, OWN_COLUMNS, REQUIRED
from cluster.files.jsonl import parse_jsonl
from rapo.errors import DataError, ResourceError
from rapo.util.printable import clipped

if TYPE_CHECKING:
    import pyarrow as pa

Cells = Mapping[str, object]

# JSON allows them inside a text; many readers of lines end a line there.
_LINE_ENDS = {number: f"\\u{number:04x}" for number in (0x7F, 0x85, 0x2028, 0x2029)}


@dataclass(frozen=True, slots=True)
class Content:
    """The rows of a file, and the types of its foreign columns where the format has any."""

    rows: Sequence[Cells] = ()
    fields: Mapping[str, pa.Field] | None = None


class Format(Protocol):
    """A kind of file."""

    def encode(self, rows: Sequence[Cells], columns: Sequence[str], was: Content) -> bytes:
        """The whole file. `was` is what it held before."""
        ...

    def decode(self, path: Path) -> Content:
        """What a file holds. Raises `ValueError` or `csv.Error` where it is no table."""
        ...


class _Csv:
    def encode(self, rows: Sequence[Cells], columns: Sequence[str], was: Content) -> bytes:
        return encode_csv(rows, columns)

    def decode(self, path: Path) -> Content:
        return Content(decode_csv(path.read_bytes()))


class _JsonLines:
    def encode(self, rows: Sequence[Cells], columns: Sequence[str], was: Content) -> bytes:
        return b"".join(map(json_line, rows))

    def decode(self, path: Path) -> Content:
        parsed = list(parse_jsonl(path.read_bytes().removeprefix(b"\xef\xbb\xbf")))
        rows = [row for row in parsed if row is not None]
        if len(rows) < len(parsed):
            raise ValueError("a line holds no row")
        return Content(rows)


class _Parquet:
    def encode(self, rows: Sequence[Cells], columns: Sequence[str], was: Content) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Types are given, or a column of nothing but nulls would lose its own.
        types = {**dict.fromkeys(NUMBERS, pa.float64()), **dict.fromkeys(FLAGS, pa.bool_())}
        foreign = was.fields or {}
        schema = pa.schema([foreign.get(name) or (name, types.get(name, pa.string())) for name in columns])
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), sink)
        return sink.getvalue().to_pybytes()

    def decode(self, path: Path) -> Content:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        fields = {field.name: field.with_nullable(True) for field in table.schema if field.name not in OWN_COLUMNS}
        return Content(table.to_pylist(), fields)


_FORMATS: Mapping[str, Format] = {".csv": _Csv(), ".jsonl": _JsonLines(), ".parquet": _Parquet()}


def format_of(output: Path) -> Format:
    """The format for a file's name. Raises `DataError` where the file cannot be written, and
    `ResourceError` where a package is missing."""
    suffix = output.suffix.lower()
    if suffix not in _FORMATS:
        raise DataError(f"cannot write {output}: the name must end in {', '.join(_FORMATS)}.")
    if not output.parent.is_dir():
        raise DataError(f"cannot write {output}: the folder {output.parent} does not exist. Create it first.")
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a folder.")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ResourceError(f"{output} needs pyarrow: pip install pyarrow, or write .csv or .jsonl.") from error
    return _FORMATS[suffix]


def read_content(output: Path, form: Format) -> Content:
    """What a finished table holds. Raises `DataError` where it is no table of `rapo score`."""
    try:
        content = form.decode(output)
    except (OSError, ValueError, csv.Error) as error:
        raise _no_table(output, clipped(str(error), 250)) from error
    check_rows(content.rows, output)
    return content


def check_rows(rows: Sequence[Cells], source: Path) -> None:
    """Raise `DataError` for rows that are not those of a score table."""
    if not all(row.keys() >= REQUIRED and row["image"] for row in rows):
        raise _no_table(source, f"each row needs {', '.join(sorted(REQUIRED))}")


def _no_table(source: Path, why: str) -> DataError:
    return DataError(f"{source} is no table of `rapo score`: {why}. Choose another output, or --fresh to replace it.")


def json_line(row: Cells) -> bytes:
    """A row as one line of JSON, for every reader of lines."""
    text = json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS)
    return (text + "\n").encode("utf-8", errors="backslashreplace")

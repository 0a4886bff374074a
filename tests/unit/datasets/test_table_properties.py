"""Tables of any content: what is written is read back equal, and nothing ends in a traceback.

`RAPO_EXAMPLES` is the number of examples of each test; 5,000 take minutes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rapo.config import SourceConfig
from rapo.datasets.labels import strings
from rapo.datasets.registry import read_source
from rapo.datasets.scales import scale_of
from rapo.errors import DataError, RapoError

EXAMPLES = settings(
    max_examples=int(os.environ.get("RAPO_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONGEST = 500

Rows = list[tuple[str, float]]

#: A piece of a path: anything but what separates or normalises.
_PIECE = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\:", include_characters=" "),
    min_size=1,
    max_size=12,
).map(str.strip)
NAMES = (
    st.lists(_PIECE.filter(lambda piece: piece not in ("", ".", "..")), min_size=1, max_size=3)
    .map("/".join)
    .map(lambda name: f"{name}.jpg")
)
ROWS: st.SearchStrategy[Rows] = st.lists(
    st.tuples(NAMES, st.floats(0, 1).map(lambda score: round(score, 12))),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


def as_csv(rows: Rows, delimiter: str, end: str, quoting: int, start: str) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("image", "score"), *rows])
    return (start + stream.getvalue()).encode()


def as_parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table({"image": [row[0] for row in rows], "score": [row[1] for row in rows]}), sink)
    return sink.getvalue()


def as_xlsx(rows: Rows) -> bytes:
    book, sink = openpyxl.Workbook(), io.BytesIO()
    for number, row in enumerate([("image", "score"), *rows], start=1):
        for column, value in enumerate(row, start=1):
            cell = book.active.cell(number, column)
            cell.value = value
            if isinstance(value, str):
                cell.data_type = "s"  # a name that begins with "=" is no formula
    book.save(sink)
    return sink.getvalue()


def as_json(rows: Rows) -> bytes:
    return json.dumps([{"image": name, "score": score} for name, score in rows]).encode()


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps({"image": n, "score": s}, ensure_ascii=False) + "\n" for n, s in rows).encode()


CSV: st.SearchStrategy[Callable[[Rows], bytes]] = st.builds(
    lambda *how: lambda rows: as_csv(rows, *how),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["", "\ufeff"]),
)
FORMATS = st.one_of(CSV, *map(st.just, (as_parquet, as_xlsx, as_json, as_jsonl)))


def read(content: bytes) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t")
        path.write_bytes(content)
        source = SourceConfig(path=path)
        found = read_source(source)
        scale_of(source, found)
        return list(zip(strings(found.labels.names), found.labels.scores.tolist(), strict=True))


def read_or_refuse(content: bytes) -> None:
    """A table, or one line that says what is wrong with it."""
    message = ""
    try:
        read(content)
    except RapoError as error:
        message = str(error)
    assert len(message) <= LONGEST, message
    assert "\n" not in message, message


@EXAMPLES
@given(ROWS, FORMATS)
def test_what_is_written_is_read_back_equal(rows: Rows, write: Callable[[Rows], bytes]) -> None:
    assert read(write(rows)) == rows


@EXAMPLES
@given(
    ROWS, FORMATS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=20)), max_size=4)
)
def test_a_damaged_table_is_a_table_or_an_error_of_a_line(
    rows: Rows, write: Callable[[Rows], bytes], damage: list[tuple[int, int, bytes]]
) -> None:
    content = write(rows)
    for at, length, new in damage:
        at %= len(content) + 1
        content = content[:at] + new + content[at + length :]
    read_or_refuse(content)


def test_a_sheet_whose_header_names_half_of_the_file_is_an_error_of_a_line() -> None:
    content = bytearray(as_xlsx([(f"{number}.jpg", 0.5) for number in range(2000)]))
    header = content.index(b"xl/worksheets/sheet1.xml") - 30
    content[header + 26 : header + 28] = (9000).to_bytes(2, "little")  # the length of the name
    read_or_refuse(bytes(content))
    with pytest.raises(DataError, match="not a readable Excel file"):
        read(bytes(content))


_CELL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.lists(st.text(max_size=100), max_size=3),
    st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=3),
)


@EXAMPLES
@given(
    st.lists(
        st.dictionaries(st.one_of(st.sampled_from(["image", "score", "std", "split"]), st.text(max_size=60)), _CELL),
        max_size=6,
    ),
    st.booleans(),
)
@example([{"image": b"\xff" * 3_000_000, "score": b"\xff" * 3_000_000}], True)
@example([{"image": "x" * 100_000, "score": "y" * 100_000}], False)
@example([{"image": "half a character \ud800.jpg", "score": 1, "split": "\ud800"}], False)
@example([{f"column {i}" * 9: i for i in range(300)}], False)
@example([{"image": None, "score": 2**53 + 1}], True)
def test_any_cells(rows: list[dict[str, object]], columnar: bool) -> None:
    if not columnar:
        return read_or_refuse(json.dumps(rows, default=str).encode())
    sink = io.BytesIO()
    try:
        parquet.write_table(pa.Table.from_pylist(rows), sink)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):  # cells of different types have no column
        return None
    return read_or_refuse(sink.getvalue())


@EXAMPLES
@given(st.text(max_size=400))
@example("image,score\n" + "a.jpg,1\n" * 3 + '"' + "b.jpg,1\n" * 2000)
@example("image,score\n" + "".join(f"{'a' * 500}{i}.jpg,nope\n" for i in range(30)))
def test_any_text(text: str) -> None:
    read_or_refuse(text.encode("utf-8", "surrogatepass"))

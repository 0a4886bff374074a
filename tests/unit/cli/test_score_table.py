"""The output of `rapo score`: what is written is read back, also after others had the file."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.cli.score.names import name_of, path_of
from cluster.cli.score.row import COLUMNS, NATIVE_COLUMNS, ScoreRow
from cluster.cli.score.table import ScoreTable
from rapo.errors import DataError
from rapo.util.printable import from_printable, printable

FORMATS = (".csv", ".jsonl", ".parquet")
formats = pytest.mark.parametrize("suffix", FORMATS)

#: Characters that some reader takes for the end of a line or a cell, or that a file may lose.
ODD = "\r\n\v\f\x1c\x1e\x85\u2028\u2029\x00\ufeff\\\"';,=+-@ \t\u00a0é海\U0001f468\u200d"
odd_texts = st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=12)
file_names = st.binary(min_size=1, max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"\1")))
shares = st.floats(0, 1)

rows = st.builds(
    ScoreRow,
    image=st.one_of(file_names, odd_texts.map(lambda text: text.replace("\0", "")).filter(bool)).map(
        lambda name: name_of(Path(name))
    ),
    aesthetic_score=st.none() | shares,
    interval_low=st.none() | shares,
    aesthetic_score_std=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    rationale=st.none() | odd_texts,
    forced=st.none() | st.booleans(),
    model_version=st.none() | st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20),
    readout=st.none() | st.sampled_from(["expected", "greedy"]),
    error=st.none() | odd_texts,
    native_score=st.none() | st.floats(-100, 100),
    native_scale=st.none() | odd_texts,
)
many_rows = st.lists(rows, max_size=6, unique_by=lambda row: row.image)
#: More in a run by hand: RAPO_EXAMPLES=5000.
thorough = settings(
    max_examples=int(os.environ.get("RAPO_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write(output: Path, made: list[ScoreRow], columns: tuple[str, ...] = (*COLUMNS, *NATIVE_COLUMNS)) -> None:
    with ScoreTable(output, columns, fresh=True) as table:
        for row in made:
            table.append(row)
        table.finish([row.image for row in made])


def read(output: Path) -> list[ScoreRow]:
    with ScoreTable(output, COLUMNS) as table:
        return list(table.rows.values())


@thorough
@given(name=file_names)
def test_a_name_leads_back_to_its_path(name: str) -> None:
    named = name_of(Path(name))
    assert path_of(named) == Path(name)
    assert named.encode()
    assert len(named.splitlines()) == 1
    assert named.strip() == named
    assert named[0] not in "=+-@'"


@thorough
@given(text=odd_texts)
def test_a_printable_text_leads_back_to_the_text(text: str) -> None:
    assert from_printable(printable(text)) == text
    assert len(printable(text).splitlines()) == 1


@formats
@thorough
@given(made=many_rows)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, made: list[ScoreRow]) -> None:
    output = tmp_path / f"scores{suffix}"
    write(output, made)
    assert read(output) == made
    if suffix != ".parquet":
        lines = output.read_bytes().decode().splitlines()
        assert len(lines) == len(made) + (suffix == ".csv"), "one line an image, for every reader"


@thorough
@given(made=many_rows)
def test_rows_of_a_call_that_was_killed_are_read_back(tmp_path: Path, made: list[ScoreRow]) -> None:
    output = tmp_path / "scores.csv"
    with ScoreTable(output, (*COLUMNS, *NATIVE_COLUMNS), fresh=True) as table:
        for row in made:
            table.append(row)
    assert read(output) == made


def test_a_fresh_call_that_was_stopped_goes_on_without_the_table_of_before(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    old, new, newer = (ScoreRow(f"{name}.jpg", 0.5, model_version=name) for name in ("old", "new", "newer"))
    write(output, [old])
    for row in (old, new):  # the second call starts over what the first one left
        with ScoreTable(output, COLUMNS, fresh=True) as table:
            table.append(row)
    with ScoreTable(output, COLUMNS) as table:
        assert list(table.rows.values()) == [new]
        table.append(newer)
    with ScoreTable(output, COLUMNS) as table:
        assert list(table.rows.values()) == [new, newer]
        table.finish([])
    assert read(output) == [new, newer]


def test_a_full_disk_is_one_error_and_costs_no_row(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    made = [ScoreRow(f"{number}.jpg", 0.5, rationale="x" * 400) for number in range(20)]

    def append(rows: list[ScoreRow]) -> None:
        with ScoreTable(output, COLUMNS) as table:
            for row in rows:
                table.append(row)

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, usual[1]))
    try:
        with pytest.raises(DataError, match="cannot write"):
            append(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    kept = len(read(output))
    assert 1 < kept < len(made)
    append(made[kept:])
    assert read(output) == made


def test_a_fresh_call_that_scored_nothing_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    write(output, [ScoreRow("old.jpg", 0.5)])
    with ScoreTable(output, COLUMNS, fresh=True):
        pass
    assert [row.image for row in read(output)] == ["old.jpg"]


@thorough
@given(made=many_rows, delimiter=st.sampled_from(",;\t"), bom=st.booleans(), comma=st.booleans(), order=st.randoms())
def test_a_spreadsheet_may_save_the_table_in_between(
    tmp_path: Path, made: list[ScoreRow], delimiter: str, bom: bool, comma: bool, order: random.Random
) -> None:
    output = tmp_path / "scores.csv"
    write(output, made)
    with output.open(newline="", encoding="utf-8") as file:
        header, *cells = csv.reader(file)
    numbers = {header.index(name) for name in header if "score" in name or "interval" in name}
    forced = header.index("forced")
    moved = list(range(len(header)))
    order.shuffle(moved)
    saved = io.StringIO(newline="")
    writer = csv.writer(saved, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow([header[place] for place in moved] + ["", "note"])
    for number, record in enumerate(cells):
        shown = [c.replace(".", ",") if comma and place in numbers else c for place, c in enumerate(record)]
        shown[forced] = {"True": "WAHR", "False": "FALSCH"}.get(shown[forced], shown[forced])
        writer.writerow([shown[place] for place in moved] + ["", f"note {number}\r\nof mine"])
        writer.writerow([""] * (len(header) + 2))
    output.write_bytes((b"\xef\xbb\xbf" if bom else b"") + saved.getvalue().encode())
    with ScoreTable(output, COLUMNS) as table:
        assert [replace(row, foreign={}) for row in table.rows.values()] == made
        assert [row.foreign for row in table.rows.values()] == [
            {"note": f"note {number}\r\nof mine"} for number in range(len(made))
        ]
        table.finish([row.image for row in made])
    assert [row.foreign["note"] for row in read(output)] == [f"note {n}\r\nof mine" for n in range(len(made))]


BASIC = ("image", "aesthetic_score", "model_version", "readout")
bytes_of_files = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.lists(st.lists(odd_texts, min_size=1, max_size=6).map(",".join), max_size=5).map(
        lambda lines: "\n".join([",".join(BASIC), *lines]).encode()
    ),
)


@formats
@thorough
@given(content=bytes_of_files)
def test_any_file_is_a_table_or_an_error_of_one_short_message(tmp_path: Path, suffix: str, content: bytes) -> None:
    output = tmp_path / f"scores{suffix}"
    output.write_bytes(content)
    try:
        read(output)
    except DataError as error:
        message = str(error).replace(str(tmp_path), "")
        assert len(message) < 500
        assert len(message.splitlines()) == 1
    assert output.read_bytes() == content


@formats
def test_columns_of_the_user_stay_in_their_types(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"scores{suffix}"
    write(output, [ScoreRow("a.jpg", 0.5, model_version="v7", readout="expected")], COLUMNS)
    if suffix == ".csv":
        head, line = output.read_text().splitlines()
        output.write_text(f"{head},mine\n{line},7\n")
    elif suffix == ".jsonl":
        row = json.loads(output.read_text())
        output.write_text(json.dumps({"mine": [7], **row}) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(output)
        pq.write_table(table.append_column("mine", pa.array([7], pa.int8())), output)
    with ScoreTable(output, COLUMNS) as table:
        table.append(ScoreRow("a.jpg", 0.75, model_version="v7", readout="expected"))
        table.append(ScoreRow("b.jpg", 0.25, model_version="v7", readout="expected"))
        table.finish(["a.jpg", "b.jpg"])
    kept: object = {".csv": "7", ".jsonl": [7], ".parquet": 7}[suffix]
    first, second = read(output)
    assert (first.aesthetic_score, first.foreign["mine"]) == (0.75, kept)
    assert not second.foreign["mine"]
    if suffix == ".parquet":
        assert str(pq.read_schema(output).field("mine").type) == "int8"


def test_of_two_rows_for_one_image_the_scored_one_stays(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.write_text(
        f"{','.join((*BASIC, 'error', 'note'))}\n./a.jpg,0.5,v7,expected,,one\na.jpg,,,,gone,\na.jpg,,,,gone,two\n"
    )
    (row,) = read(output)
    assert (row.image, row.aesthetic_score, row.error, row.foreign) == ("a.jpg", 0.5, None, {"note": "two"})


@pytest.mark.parametrize(
    ("cell", "words"), [("64%", "no number"), ("639", "not in"), ("1_0", "no number"), ("nan", "not in")]
)
def test_a_score_that_a_spreadsheet_spoiled_is_named(tmp_path: Path, cell: str, words: str) -> None:
    output = tmp_path / "scores.csv"
    output.write_text(f"{','.join(BASIC)}\na.jpg,{cell},v7,expected\n")
    with pytest.raises(DataError, match=f"row 2: aesthetic_score is {cell}.*{words}"):
        read(output)


TABBED = "\t".join(BASIC) + "\ncafé.jpg\t0,5\tv7\texpected\n"


def test_the_unicode_text_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.write_bytes(TABBED.encode("utf-16"))
    assert [(row.image, row.aesthetic_score) for row in read(output)] == [("café.jpg", 0.5)]


def test_an_encoding_that_loses_names_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.write_bytes(TABBED.encode("latin-1"))
    with pytest.raises(DataError, match="CSV UTF-8"):
        read(output)


def test_an_output_behind_a_link_stays_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.csv"
    link.symlink_to("real/out.csv")
    for score in (0.25, 0.75):
        write(link, [ScoreRow("a.jpg", score, model_version="v", readout="greedy")])
        assert link.is_symlink()
        assert str(score) in (tmp_path / "real/out.csv").read_text()

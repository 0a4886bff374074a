"""Text tables that Arrow reads: the rows and the refusals are those of the strict reader."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rapo.datasets.files import text_blocks
from rapo.datasets.files.open import open_table
from rapo.errors import DataError

EXAMPLES = settings(max_examples=int(os.environ.get("RAPO_EXAMPLES", "100")), deadline=None)

PIECES = ["a", "b.jpg", "1", "2.5", ",", ";", "\t", "=", "\n", "\n", "\r\n", "\r", " ", "  ", '"', '""', "\u00e9",
          "\u2028", "\u0085", "\x0b", "\x1c", "\x00", "a,1\n", "b,2\n", '"c",3\n', "x 4\n"]  # fmt: skip
HEADS = ["image,score\n", "image;score\r\n", "sep=,\nimage,score\n", "image score\n", "image,score,caption\n", "", "\n"]


def rows_of(content: bytes, *, strict: bool) -> list[tuple[object, ...]] | str:
    """Each row with its place, or the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t")
        path.write_bytes(content)
        head = mock.patch("rapo.datasets.files.text.after_head", return_value=None)
        try:
            with head if strict else mock.patch.object(text_blocks, "_BLOCK", 24):
                table = open_table(path)
                wanted = list(dict.fromkeys(table.columns))
                batches = list(table.rows(wanted))
        except DataError as error:
            return str(error).replace(folder, "")
    rows: list[tuple[object, ...]] = []
    for batch in batches:
        cells = [column if isinstance(column, list) else column.to_pylist() for column in batch.cells.values()]
        rows += zip(batch.places.tolist(), *cells, strict=True)
    return rows


@EXAMPLES
@given(st.sampled_from(HEADS), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example("image,score\n", 'a,1\n\n\nb,2\n"c\nd",3\ne,4\n')
@example("image,score\n", "a,1\rb,2\nc,3\nd,4\ne,5\nf,6\ng,7\n")
@example("image,score\n", ",\n , \na,1\n")
@example("image,score\n", 'a,1\nb,"2\n' + "c,3\n" * 20)
@example("image,score\n", "a,1\n,\u2028\nb,2\n\u0085,\u00a0\n")
@example("image,score\n", "a,1\n" * 8 + "b,2,3\n")
def test_both_readers_say_the_same(head: str, body: str) -> None:
    content = (head + body).encode()
    assert rows_of(content, strict=False) == rows_of(content, strict=True)


@EXAMPLES
@given(st.binary(max_size=60))
def test_both_readers_say_the_same_of_any_bytes(body: bytes) -> None:
    content = b"image,score\na,1\n" + body
    assert rows_of(content, strict=False) == rows_of(content, strict=True)


@pytest.mark.parametrize(
    "line", ["photos/{}.jpg,0.5", '"photos/{}.jpg",0.5', "photos/{}.jpg, 0.5", "photos/{}.jpg;1", "photos/{}.jpg 0.5"]
)
def test_arrow_reads_plain_tables_to_their_end(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t"
    path.write_text("".join(f"{line.format(row)}\n" for row in range(100_000)) + "\n\n")
    with mock.patch("rapo.datasets.files.text._Reader.read", side_effect=AssertionError):
        batches = iter(open_table(path).rows(["1", "2"]))
        assert pa.array(next(batches).cells["1"])[0].as_py() == "photos/0.jpg"
        *_, last = batches
    assert int(last.places[-1]) == 100_000
    assert pa.array(last.cells["1"])[-1].as_py() == "photos/99999.jpg"


def test_a_line_that_is_no_text_is_named_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"image,score\n" + b"a.jpg,1\n" * 200_000 + b"\xff.jpg,1\n")
    with pytest.raises(DataError, match="line 200002 is not UTF-8"):
        list(open_table(path).rows(["score"]))

"""Text blocks: whole lines of a text table at once, read by Arrow where that means the same as
reading them strictly.

- Quotation marks that do more than enclose single cells are for the strict reader, with the rest of
  the file: a cell may reach beyond its block.
- Rows that are blank, too short or too long, and lines that only the strict reader tells apart, are
  for the strict reader, with their block.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from rapo.datasets.files.sniff import UTF16, ByteStream

SPACES = " "
#: Arrow takes several times the memory of a block while it reads it.
_BLOCK = 1 << 18
_BOM = b"\xef\xbb\xbf"
#: Signs that are blanks, or no signs at all, to one of the two readers only.
_CONTROL = (b"\x00", b"\x1c", b"\x1d", b"\x1e", b"\x1f")
#: What `str.strip` leaves.
_VISIBLE = r"[^\t\n\v\f\r \x{85}\pZ]"
#: What makes cells of a line that whitespace separates, beside single spaces.
_OTHER_SPACE = (b"\t", b"\v", b"\f", b"  ", b" \r", b" \n", b"\n ")


class BlockReader:
    """Reads the cells of the columns `wanted` (by index) of tables of `width` columns."""

    def __init__(self, delimiter: str, width: int, wanted: Sequence[int]) -> None:
        mark = delimiter.encode()
        self._wanted = wanted
        self._spaced = delimiter == SPACES
        self._initial = (b"\n ", mark + b" ")
        #: A cell that quotation marks enclose, with none inside of it.
        self._enclosed = re.compile(rb'(?<![^\n%b])"[^"\r\n]*"(?![^\r\n%b])' % ((re.escape(mark),) * 2))
        names = [str(column) for column in range(width)]
        chosen = [names[column] for column in dict.fromkeys(wanted)]
        self._read = {"column_names": names, "use_threads": False}
        self._parse = {"delimiter": delimiter, "ignore_empty_lines": False}
        self._convert = arrow_csv.ConvertOptions(
            check_utf8=False, include_columns=chosen, column_types=dict.fromkeys(chosen, pa.large_string())
        )

    def encloses(self, block: bytes) -> bool:
        """Whether the block's quotation marks do nothing but enclose single cells."""
        marks = block.count(b'"')
        return self._spaced or not marks or marks == 2 * len(self._enclosed.findall(block))

    def cells(self, block: bytes) -> list[pa.Array] | None:
        """The cells of the wanted columns, a row for each line; None where the strict reader has to
        look. Raises `UnicodeDecodeError`."""
        if not block.isascii():
            block.decode("utf-8")
            if self._spaced:
                return None
        quoted = b'"' in block and not self._spaced
        initial = not self._spaced and (block.startswith(b" ") or _any(self._initial, block))
        if (
            _lone_returns(block)
            or _any(_CONTROL, block)
            or (quoted and initial)
            or (self._spaced and (block.startswith(b" ") or _any(_OTHER_SPACE, block)))
            or _longest_line(block) > csv.field_size_limit()
        ):
            return None
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block.rstrip(b"\r\n")),
                arrow_csv.ReadOptions(**self._read, block_size=len(block) + 1),
                arrow_csv.ParseOptions(**self._parse, quote_char='"' if quoted else False),
                self._convert,
            )
        except pa.ArrowInvalid:
            return None
        found = [table[str(column)].combine_chunks() for column in self._wanted]
        if initial:
            found = [pc.utf8_ltrim(column, " ") for column in found]
        return None if _has_blank_row(found) else found


def blocks(file: ByteStream, at: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file from the offset `at` on, where it stands, with the offset that they
    begin at."""
    while block := file.read(_BLOCK):
        if not block.endswith(b"\n"):
            block += file.readline()
        yield at, block
        at += len(block)


def after_head(file: ByteStream, skip: int, *, header: bool) -> tuple[int, int] | None:
    """The offset behind a table's header and behind `skip` lines before it, and the number of lines
    up to there; None where the strict reader has to look."""
    mark = file.read(len(_BOM))
    if mark[:2] in UTF16:
        return None
    start = len(_BOM) if mark == _BOM else 0
    file.seek(start)
    lines = 0
    while header or lines < skip:
        line = file.readline(csv.field_size_limit())
        lines += 1
        if not line.endswith(b"\n") or b'"' in line or _lone_returns(line):
            return None
        start += len(line)
        if lines > skip and line.decode("utf-8", "replace").strip():
            break
    return start, lines


def line_ends(block: bytes) -> int:
    """The line ends of a block, as text files count them."""
    return block.count(b"\n") + _lone_returns(block)


def _any(signs: Sequence[bytes], block: bytes) -> bool:
    return any(sign in block for sign in signs)


def _lone_returns(block: bytes) -> int:
    return block.count(b"\r") - block.count(b"\r\n")


def _longest_line(block: bytes) -> int:
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    return int(np.diff(ends, prepend=-1, append=len(block)).max())


def _has_blank_row(columns: Sequence[pa.Array]) -> bool:
    blank = None
    for column in columns:
        empty = pc.invert(pc.match_substring_regex(column, _VISIBLE))
        blank = empty if blank is None else pc.and_(blank, empty)
        if not pc.any(blank).as_py():
            return False
    return True

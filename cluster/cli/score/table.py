"""ScoreTable: the output of `rapo score`, a table that appears whole.

- While it is made, each row is appended to `<output>.partial.jsonl` as soon as it is known, so that
  a crash loses nothing that was scored.
- The next call with the same output takes those rows, or the rows of the finished table, and scores
  the images that are missing or failed.
- After a call with `fresh` that was stopped, the finished table of before counts for nothing.
- Columns that a user added to the finished table stay.
- Two calls never write the same output.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cluster.cli.score.formats import Cells, Content, check_rows, format_of, json_line, read_content
from cluster.cli.score.row import NATIVE_COLUMNS, OWN_COLUMNS, ScoreRow, row_of
from cluster.files.atomic import write_atomic
from cluster.files.jsonl import ends_torn, read_jsonl
from rapo.errors import DataError

_SYNC_PERIOD_S = 1.0
#: The first line of the rows aside, where the finished table does not belong to them.
_FRESH = {"fresh": True}


class ScoreTable:
    """The rows of one output file (.csv, .jsonl or .parquet) by image name. A context manager.

    Raises `DataError` before anything is scored where the output cannot be written, is no table of
    `rapo score`, or is being written by another call. `fresh` starts over and ignores what is
    there.
    """

    def __init__(self, output: Path, columns: Sequence[str], *, fresh: bool = False) -> None:
        self.output = output
        self.columns = tuple(columns)
        self.foreign: tuple[str, ...] = ()
        self.partial = output.with_name(f"{output.name}.partial.jsonl")
        self.rows: dict[str, ScoreRow] = {}
        self._format = format_of(output)
        self._was = Content()
        self._fresh = fresh
        self._file: IO[bytes] | None = None
        self._synced = 0.0

    def __enter__(self) -> Self:
        try:
            self._file = self.partial.open("a+b")
        except OSError as error:
            raise DataError(f"cannot write {self.partial}: {error.strerror or error}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DataError(f"{self.output} is being written by another `rapo score`; wait for it.") from error
        try:
            self._load(self._file)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def append(self, row: ScoreRow) -> None:
        """Add a row. It replaces the row of the same image, if there is one; the user's cells of
        that one stay."""
        if self._file is None:
            raise RuntimeError("the table is not open")
        known = self.rows.get(row.image)
        self.rows[row.image] = row if known is None else replace(row, foreign=known.foreign)
        try:
            if self._fresh and not self._file.tell():
                self._file.write(json_line(_FRESH))
            self._file.write(json_line(row.cells(self.columns)))
            self._file.flush()  # survives a crash of this process; only a sync survives a power cut
            if time.monotonic() - self._synced > _SYNC_PERIOD_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise DataError(f"cannot write {self.partial}: {error.strerror or error}.") from error

    def finish(self, order: Sequence[str]) -> None:
        """Write the table whole and remove the rows beside it. The images of `order` come in that
        order, after all others."""
        now = set(order)
        images = [*(image for image in self.rows if image not in now), *order]
        rows = [self.rows[image].full(self.columns, self.foreign) for image in images]
        try:
            whole = Path(os.path.realpath(self.output))  # a link stays one
            write_atomic(whole, self._format.encode(rows, (*self.columns, *self.foreign), self._was))
        except OSError as error:
            raise DataError(f"cannot write {self.output}: {error.strerror or error}.") from error
        self.partial.unlink(missing_ok=True)

    def _load(self, file: IO[bytes]) -> None:
        if self._fresh:
            file.truncate(0)
            file.seek(0)
            return
        rows = read_jsonl(self.partial)
        if rows[:1] == [_FRESH]:
            del rows[0]
        elif self.output.is_file():
            self._was = read_content(self.output, self._format)
            self._keep(self._was.rows)
        check_rows(rows, self.partial)
        self._keep(rows)
        if ends_torn(file):
            file.write(b"\n")

    def _keep(self, rows: Sequence[Cells]) -> None:
        for cells in rows:
            row = row_of(cells)
            known = self.rows.get(row.image)
            if known is not None:
                cells_of_both = {**known.foreign, **{name: cell for name, cell in row.foreign.items() if cell}}
                row = replace(known if known.scored and not row.scored else row, foreign=cells_of_both)
            self.rows[row.image] = row
        names = dict.fromkeys(name for row in rows for name in row if name not in OWN_COLUMNS)
        self.foreign = tuple(dict.fromkeys((*self.foreign, *names)))
        if any(row.native_scale for row in self.rows.values()):
            self.columns = tuple(dict.fromkeys((*self.columns, *NATIVE_COLUMNS)))

    def _close(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        if self.partial.exists() and self.partial.stat().st_size == 0:
            self.partial.unlink()
        with suppress(OSError):  # `append` has written what can be written, and said what cannot
            file.close()

"""ScoreTable: the output of `rapo score`, a table that appears whole.

- While it is made, each row is appended to `<output>.partial.jsonl` as soon as it is known, so that
  a crash loses nothing that was scored.
- The next call with the same output takes those rows, or the rows of the finished table, and scores
  the images that are missing or failed.
- Two calls never write the same output.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cluster.files.atomic import write_atomic
from cluster.files.json_values import finite
from cluster.files.jsonl import ends_torn, parse_jsonl, read_jsonl
from rapo.errors import DataError, ResourceError

#: Columns of the output, in order. `NATIVE_COLUMNS` follow where a native scale is asked for.
INTERVAL_COLUMNS = ("interval_low", "interval_high", "interval_coverage")
COLUMNS = (
    *("image", "aesthetic_score", *INTERVAL_COLUMNS, "aesthetic_score_std"),
    *("rationale", "forced", "model_version", "readout", "error"),
)
NATIVE_COLUMNS = ("native_score", "native_scale")

_NUMBERS = frozenset({"aesthetic_score", *INTERVAL_COLUMNS, "aesthetic_score_std", "native_score"})
_FLAGS = frozenset({"forced"})
_FLAG_VALUES: Mapping[object, bool] = {True: True, False: False, "True": True, "False": False}
# A table from before there were intervals is continued; its rows have none.
_REQUIRED = frozenset(COLUMNS) - frozenset(INTERVAL_COLUMNS)
_SYNC_PERIOD_S = 1.0


Cell = float | str | bool | None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One image. `aesthetic_score` is None where `error` says why; `forced` is as in
    `rapo.client.types.ScoreResult`."""

    image: str
    aesthetic_score: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    interval_coverage: float | None = None
    aesthetic_score_std: float | None = None
    rationale: str | None = None
    forced: bool | None = None
    model_version: str | None = None
    readout: str | None = None
    error: str | None = None
    native_score: float | None = None
    native_scale: str | None = None

    def cells(self, columns: Iterable[str]) -> dict[str, Cell]:
        return {name: getattr(self, name) for name in columns}


class ScoreTable:
    """The rows of one output file (.csv, .jsonl or .parquet) by image name. A context manager.

    Raises `DataError` before anything is scored where the output cannot be written, is no table of
    `rapo score`, or is being written by another call. `fresh` starts over and ignores what is
    there.
    """

    def __init__(self, output: Path, columns: Sequence[str], *, fresh: bool = False) -> None:
        self.output = output
        self.columns = tuple(columns)
        self.partial = output.with_name(f"{output.name}.partial.jsonl")
        self.rows: dict[str, ScoreRow] = {}
        self._encode = _encoder(output)
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
        """Add a row. It replaces the row of the same image, if there is one."""
        if self._file is None:
            raise RuntimeError("the table is not open")
        self.rows[row.image] = row
        try:
            self._file.write(_line(row.cells(self.columns)))
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
        rows = [self.rows[image].cells(self.columns) for image in images]
        try:
            write_atomic(self.output, self._encode(rows, self.columns))
        except OSError as error:
            raise DataError(f"cannot write {self.output}: {error.strerror or error}.") from error
        self.partial.unlink(missing_ok=True)

    def _load(self, file: IO[bytes]) -> None:
        if self._fresh:
            file.truncate(0)
            return
        if self.output.is_file():
            self._keep(_read(self.output), self.output)
        self._keep(read_jsonl(self.partial), self.partial)
        if ends_torn(file):
            file.write(b"\n")

    def _keep(self, rows: Sequence[Mapping[str, object]], source: Path) -> None:
        for row in rows:
            if not row.keys() >= _REQUIRED:
                raise DataError(
                    f"{source} is no table of `rapo score`. Choose another output, or --fresh to replace it."
                )
            kept = _row(row)
            self.rows[kept.image] = kept

    def _close(self) -> None:
        if self._file is not None:
            self._file.flush()
            if self.partial.exists() and self.partial.stat().st_size == 0:
                self.partial.unlink()
            self._file.close()
            self._file = None


def _row(row: Mapping[str, object]) -> ScoreRow:
    number = {name: finite(row.get(name)) for name in _NUMBERS}
    text = {name: None if (value := row.get(name)) is None else str(value) for name in row.keys() - _NUMBERS - _FLAGS}
    return ScoreRow(
        str(row["image"]),
        number["aesthetic_score"],
        number["interval_low"],
        number["interval_high"],
        number["interval_coverage"],
        number["aesthetic_score_std"],
        text["rationale"],
        _FLAG_VALUES.get(row["forced"]),
        text["model_version"],
        text["readout"],
        text["error"],
        number["native_score"],
        text.get("native_scale"),
    )


Cells = Mapping[str, Cell]
Encoder = Callable[[Sequence[Cells], Sequence[str]], bytes]


def _encoder(output: Path) -> Encoder:
    encoders: dict[str, Encoder] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    suffix = output.suffix.lower()
    if suffix not in encoders:
        raise DataError(f"cannot write {output}: the name must end in {', '.join(encoders)}.")
    if not output.parent.is_dir():
        raise DataError(f"cannot write {output}: the folder {output.parent} does not exist. Create it first.")
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a folder.")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ResourceError(f"{output} needs pyarrow: pip install pyarrow, or write .csv or .jsonl.") from error
    return encoders[suffix]


def _csv(rows: Sequence[Cells], columns: Sequence[str]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", errors="replace")


def _jsonl(rows: Sequence[Cells], columns: Sequence[str]) -> bytes:
    return b"".join(map(_line, rows))


def _line(row: Cells) -> bytes:
    # A file name may hold bytes that are not UTF-8.
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def _parquet(rows: Sequence[Cells], columns: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Types are given, or a column of nothing but nulls would lose its own.
    types = {**dict.fromkeys(_NUMBERS, pa.float64()), **dict.fromkeys(_FLAGS, pa.bool_())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue().to_pybytes()


def _read(output: Path) -> Sequence[Mapping[str, object]]:
    """The rows of a finished table."""
    try:
        if output.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                return pq.read_table(output).to_pylist()
            except pa.ArrowInvalid as error:
                raise ValueError(str(error)) from error
        if output.suffix.lower() == ".jsonl":
            parsed = list(parse_jsonl(output.read_bytes()))
            rows = [row for row in parsed if row is not None]
            if len(rows) < len(parsed):
                raise ValueError("a line holds no row")
            return rows
        text = output.read_text(encoding="utf-8")
        return [_typed(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{output} cannot be read as a table of `rapo score` ({error}). Choose another output, or --fresh to replace it."
        ) from error


def _typed(row: Mapping[str, str | None]) -> dict[str, Cell]:
    return {name: None if not value else float(value) if name in _NUMBERS else value for name, value in row.items()}

"""The output of `rapo score`: a table that appears whole, and beside it, while it is being made,
every row so far.

Each row is appended to `<output>.partial.jsonl` as soon as it is known, so that a crash loses
nothing that was scored. The next call with the same output takes those rows, or the rows of the
finished table, and scores what is missing or failed.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from cluster.files.jsonl import ends_torn, parse_jsonl, read_jsonl
from rapo.errors import DataError, ResourceError

#: Columns of the output, in order. `aesthetic_score` is null where `error` says why. Where a native
#: scale is asked for, `NATIVE_COLUMNS` follow.
COLUMNS = ("image", "aesthetic_score", "aesthetic_score_std", "rationale", "model_version", "readout", "error")
NATIVE_COLUMNS = ("native_score", "native_scale")

_NUMBERS = frozenset({"aesthetic_score", "aesthetic_score_std", "native_score"})
_SYNC_PERIOD_S = 1.0

ScoreRow = dict[str, Any]


class ScoreTable:
    """The rows of one output file (.csv, .jsonl or .parquet), kept by image name; use it as a
    context manager.

    Raises `DataError` where the output cannot be written, is no table of `rapo score`, or is being
    written by somebody else: all of it before anything is scored. `fresh` starts over and ignores
    what is there.
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
            self._load()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def append(self, row: ScoreRow) -> None:
        """Add a row, or put it in the place of the one with the same image."""
        if self._file is None:
            raise RuntimeError("the table is not open")
        self.rows[row["image"]] = row
        try:
            self._file.write(_line(row))
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_PERIOD_S:  # a flush survives a crash of ours, a sync a power cut
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise DataError(f"cannot write {self.partial}: {error.strerror or error}.") from error

    def finish(self, order: Sequence[str]) -> None:
        """Write the table whole, and remove the rows beside it. The images in `order` come in it,
        others before them."""
        now = set(order)
        images = [*(image for image in self.rows if image not in now), *order]
        rows = [{name: self.rows[image].get(name) for name in self.columns} for image in images]
        _write_whole(self.output, self._encode(rows, self.columns))
        self.partial.unlink(missing_ok=True)

    def _load(self) -> None:
        if self._file is None:
            raise RuntimeError("the table is not open")
        if self._fresh:
            self._file.truncate(0)
            return
        if self.output.is_file():
            self._keep(_read(self.output), self.output)
        self._keep(read_jsonl(self.partial), self.partial)
        if ends_torn(self._file):
            self._file.write(b"\n")

    def _keep(self, rows: Sequence[ScoreRow], source: Path) -> None:
        for row in rows:
            if not set(COLUMNS) <= set(row):
                raise DataError(
                    f"{source} is no table of `rapo score`. Choose another output, or --fresh to replace it."
                )
            self.rows[str(row["image"])] = row

    def _leave(self) -> None:
        if self._file is not None:
            self._file.flush()
            if self.partial.exists() and self.partial.stat().st_size == 0:
                self.partial.unlink()
            self._file.close()
            self._file = None


Encoder = Callable[[Sequence[ScoreRow], Sequence[str]], bytes]


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


def _csv(rows: Sequence[ScoreRow], columns: Sequence[str]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", errors="replace")


def _jsonl(rows: Sequence[ScoreRow], columns: Sequence[str]) -> bytes:
    return b"".join(map(_line, rows))


def _line(row: ScoreRow) -> bytes:
    # A file name may hold bytes that are not UTF-8.
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def _parquet(rows: Sequence[ScoreRow], columns: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Types are given, or a column of nothing but nulls would lose its own.
    schema = pa.schema([(name, pa.float64() if name in _NUMBERS else pa.string()) for name in columns])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue().to_pybytes()


def _read(output: Path) -> list[ScoreRow]:
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


def _typed(row: dict[str, Any]) -> ScoreRow:
    return {
        name: None if value in ("", None) else float(value) if name in _NUMBERS else value
        for name, value in row.items()
    }


def _write_whole(output: Path, data: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
            aside = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                aside.chmod(0o666 & ~umask)  # a temporary file is private; a result should be as any other file
                aside.replace(output)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DataError(f"cannot write {output}: {error.strerror or error}.") from error

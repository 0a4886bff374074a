"""JSON lines: rows are appended one at a time, and read back past a row that a crash tore.

- A row is on disk when `append_jsonl` returns.
- A torn row stays alone on its line: the next one is never glued to it.
- A line that is not UTF-8 costs only itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cluster.files.atomic import disk_full_named
from cluster.files.json_values import JsonRow, to_json_value


def read_jsonl(path: Path, *, last_bytes: int | None = None) -> list[JsonRow]:
    """The rows of a file in order; those of its last `last_bytes` bytes where that is given.

    A missing file has no rows. Torn lines, and lines that hold no object, are passed over.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = 0 if last_bytes is None else max(0, size - last_bytes)
            file.seek(start)
            data = file.read()
    except OSError:
        return []
    if start:
        data = data.partition(b"\n")[2]  # the first line is cut
    return [row for row in parse_jsonl(data) if row is not None]


def parse_jsonl(data: bytes) -> Iterator[JsonRow | None]:
    """Each line's row; None for a line that is torn or holds no object. Blank lines are passed
    over."""
    for line in data.split(b"\n"):
        if line.strip():
            yield _row(line)


def ends_torn(file: IO[bytes]) -> bool:
    """Whether the last line of a file has no end, as a crash leaves it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def append_jsonl(path: Path | str, row: object) -> None:
    """Append `row` as one line of JSON and fsync. The conversions and errors are those of
    `write_json`."""
    path = Path(path)
    line = json.dumps(to_json_value(row, "row"), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if ends_torn(file):
                line = b"\n" + line
            try:
                _write_all(file.fileno(), line)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def _row(line: bytes) -> JsonRow | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

"""Journal: the answers of a teacher or a judge that are in no shard yet, so that a job that is
killed does not pay for them again.

- A process appends what it was answered as soon as it has it. Each shard and each role has a file.
- An answer is used again for the same row only, from a role with the same settings, and by a judge
  for the same critique.
- What a killed process has written stays. Nothing is forced to the disk: a machine that loses its
  power may lose some lines, whose rows are then asked again.
- The files lie beside the shards. A process on a machine that does not have that folder keeps none.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from rapo.aescot.rows import STOP, UNANSWERED

Row = dict[str, Any]

logger = logging.getLogger(__name__)


class Journal:
    """The answers of one role to rows of one round. `prefix` begins the paths of the round's files,
    `settings` stands for all that decides an answer beside the row. With `reads=False` answers are
    written only."""

    def __init__(self, prefix: Path, shard_rows: int, role: str, settings: str, *, reads: bool = True) -> None:
        self._prefix = prefix
        self._shard_rows = shard_rows
        self._end = f"{role}-{settings}.jsonl"
        self._reads = reads
        #: The answers that were found, by shard and by row.
        self._known: dict[int, dict[str, Row]] = {}

    def answered(self, rows: Sequence[Row], ask: Callable[[Sequence[Row]], None]) -> None:
        """Fill in the answers that are known; have `ask` fill in the others, and write them."""
        left = [row for row in rows if not self._recall(row)]
        before = [dict(row) for row in left]
        ask(left)
        self._write(before, left)

    def _recall(self, row: Row) -> bool:
        shard = row["place"] // self._shard_rows
        if shard not in self._known:
            found = _entries(self._path(shard)) if self._reads else ()
            self._known[shard] = {entry["of"]: entry["answer"] for entry in found}
        answer = self._known[shard].pop(_question(row), None)
        row.update(answer or {})
        return answer is not None

    def _write(self, before: Sequence[Row], after: Sequence[Row]) -> None:
        lines: dict[int, list[str]] = defaultdict(list)
        for old, row in zip(before, after, strict=True):
            if row["reason"] not in (UNANSWERED, STOP):
                answer = {name: value for name, value in row.items() if name not in old or old[name] != value}
                line = json.dumps({"of": _question(old), "answer": answer})
                lines[row["place"] // self._shard_rows].append(line)
        for shard, some in lines.items():
            # A line that a kill has torn must not tear this one too.
            _append(self._path(shard), "".join(f"\n{line}" for line in some).encode())

    def _path(self, shard: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}-{shard:05d}.{self._end}")


def noted_cost(prefix: Path, role: str) -> float:
    """What the answers in a round's journals have cost, those of other settings included."""
    paths = prefix.parent.glob(f"{prefix.name}-*.{role}-*.jsonl")
    return sum(entry["answer"].get(f"{role}_cost") or 0.0 for path in paths for entry in _entries(path))


def drop_journals(prefix: Path, shard: int) -> None:
    """Remove the journals of a shard, whose answers are in a better place."""
    for path in prefix.parent.glob(f"{prefix.name}-{shard:05d}.*"):
        path.unlink(missing_ok=True)


def _question(row: Row) -> str:
    """What was asked, in short. The prompt and the score follow from the row, and a judge is asked
    about the critique."""
    return f"{row['uid']} {xxhash.xxh3_64_hexdigest((row.get('critique') or '').encode())}"


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file, without those that a kill has torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() == {"of", "answer"}:
            yield entry


def _append(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return  # this machine does not have the run's folder, or the job has ended
    try:
        os.write(descriptor, data)  # in one piece: lines of several processes do not mix
    except OSError as error:
        logger.warning("%s: answers are not in the journal, and a kill would have them asked again: %s", path, error)
    finally:
        os.close(descriptor)

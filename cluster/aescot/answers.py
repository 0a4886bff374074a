"""Answers: gathers the judged rows of one round, which come in any order, into its shards.

- A shard is written when each of its rows has an answer. Rows that nothing answered have none.
- `flush` writes what there is, so that an end of the stage loses no answer. Rows without one are
  marked in their shard, and the next start asks for them.
- What a row cost before it was answered is added to what its answer cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.aescot.round_files import RoundFiles, read_plan
from rapo.aescot.rows import JUDGED, LOST, STOP, TEACHER, UNANSWERED
from rapo.errors import RapoError

_USED = [name for name in JUDGED.names if name.endswith(("_tokens", "_cost"))]
_LOST = "the process of teacher or judge died twice over this row"
_NOT_ASKED = "the stage ended before this row was asked"


class Answers:
    """The answers to the rows of `files`. `keep` has the verdict of each of them, and is filled in
    place."""

    def __init__(self, files: RoundFiles, keep: NDArray[np.bool_]) -> None:
        self.files = files
        self.keep = keep
        #: Why rows were not answered, by their place.
        self.unanswered: dict[int, str] = {}
        self._answered = np.zeros(len(keep), bool)
        self._parts: dict[int, list[pa.Table]] = defaultdict(list)
        self._paid: dict[int, dict[str, float]] = {}

    def has(self, place: int) -> bool:
        """Whether a row has an answer."""
        return bool(self._answered[place])

    def missing(self, shard: int) -> Sequence[int]:
        """The rows of a shard that have no answer."""
        rows = self.files.rows(shard)
        if not self._answered[rows.start : rows.stop].any():
            return rows  # a few bytes, where a job may have a list for each of its shards
        return (rows.start + np.flatnonzero(~self._answered[rows.start : rows.stop])).tolist()

    def take_over(self, shard: int, table: pa.Table) -> None:
        """Take in a shard that an earlier start has written."""
        silent = pc.equal(pc.fill_null(table["reason"], ""), UNANSWERED)
        answered = table.filter(pc.invert(silent))
        self._note(answered)
        if len(answered) < len(table):
            self._parts[shard].append(answered)
            self._pay(table.filter(silent))

    def add(self, table: pa.Table) -> None:
        """Take in rows as they come, and write the shards that are complete with them.

        Raises `RapoError` where the teacher or the judge has said that it can answer nothing more.
        """
        reasons = table["reason"].to_pylist()
        silent = np.array([reason in (UNANSWERED, STOP) for reason in reasons], bool)
        unanswered = table.filter(pa.array(silent))
        self.unanswered.update(zip(*(unanswered[name].to_pylist() for name in ("place", "detail")), strict=True))
        self._pay(unanswered)
        answered = table.filter(pa.array(~silent))
        self._note(answered)
        shards = np.array([self.files.shard_of(place) for place in answered["place"].to_pylist()], np.int64)
        for shard in map(int, np.unique(shards)):
            self._parts[shard].append(answered.filter(pa.array(shards == shard)))
            if not self.missing(shard):
                self._write(shard, [])
        if STOP in reasons:
            raise RapoError(table["detail"][reasons.index(STOP)].as_py())

    def give_up(self, place: int) -> None:
        """Answer a row that got none in place of the teacher."""
        problem = self.unanswered.get(place)
        self.add(self._made([place], TEACHER if problem else LOST, problem or _LOST))

    def flush(self) -> None:
        """Write the shards that have some of their answers."""
        for shard in sorted({*self._parts, *map(self.files.shard_of, self._paid)}):
            missing = self.missing(shard)
            rows = [self._made([place], UNANSWERED, self.unanswered.get(place, _NOT_ASKED)) for place in missing]
            self._write(shard, rows)

    def _write(self, shard: int, more: Iterable[pa.Table]) -> None:
        table = pa.concat_tables([*self._parts.pop(shard, []), *more])
        if not self._paid.keys().isdisjoint(self.files.rows(shard)):
            rows = table.to_pylist()
            for row in rows:
                for name, used in self._paid.pop(row["place"], {}).items():
                    row[name] = (row[name] or 0) + used
            table = pa.Table.from_pylist(rows, schema=JUDGED)
        self.files.write(shard, table)

    def _pay(self, unanswered: pa.Table) -> None:
        """Note what rows have cost that got no answer for it."""
        for row in unanswered.to_pylist():
            before = self._paid.get(row["place"], {})
            if paid := {name: before.get(name, 0) + row[name] for name in _USED if row[name]}:
                self._paid[row["place"]] = before | paid

    def _note(self, answered: pa.Table) -> None:
        places = answered["place"].to_numpy()
        self._answered[places] = True
        self.keep[places] = answered["keep"].to_numpy()

    def _made(self, places: list[int], reason: str, problem: str) -> pa.Table:
        rows = read_plan(self.files.plan, places).to_pylist()
        words = {"problem": problem, "reason": reason, "keep": False, "detail": problem}
        return pa.Table.from_pylist([row | words for row in rows], schema=JUDGED)

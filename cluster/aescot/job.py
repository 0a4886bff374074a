"""CritiqueJob: asks teacher and judge in rounds until each score band is full or has ended.

- An answer that is in a shard or in a journal is never asked for again. What a kill loses are the
  batches that teacher and judge are working on, one for each of their processes.
- The rows, and so the critiques, depend on seed and answers only, not on the order in which they
  come nor on interruptions (`rapo.aescot.plan`).
- The driver holds the rows of shards in work, a byte for each row that was asked, and the labels.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.aescot.answers import Answers
from cluster.aescot.round_files import JOURNAL, RoundFiles
from cluster.files.jsonl import append_jsonl, read_jsonl
from cluster.remote.waiting import run_limited
from rapo.aescot.journal import noted_cost
from rapo.aescot.plan import Band, Round, make_bands, next_round, record_verdicts
from rapo.aescot.rows import JUDGED, SURPLUS
from rapo.config import Config
from rapo.datasets.record_table import RecordTable
from rapo.errors import RapoError

STARTS = "starts.jsonl"
#: Uids that are turned into Python objects at a time.
_CHUNK = 1 << 13
_FULL = "its score band has enough critiques"

#: The judged rows of some stretches of a plan, in any order; some may be missing. Last, what was
#: spent before, by role.
Ask = Callable[[Path, Sequence[Sequence[int]], Mapping[str, float]], Iterable[pa.Table]]


class CritiqueJob:
    """A job in the folder `out`; a job that was interrupted there is continued.

    `ask` answers stretches of a plan, as `cluster.aescot.stream.judged_rows` does. `progress` is
    told of the critiques so far.
    """

    def __init__(
        self, config: Config, records: RecordTable, out: Path, ask: Ask, progress: Callable[[int], None]
    ) -> None:
        settings = config.aescot
        self._config = config
        self._records = records
        self._out = out
        self._judged = ask
        self._progress = progress
        self._rounds: list[tuple[Round, RoundFiles]] = []
        self.bands: list[Band] = make_bands(
            records.scores, _uid_column(records), settings.bands, settings.images, config.run.seed, settings.refill
        )
        # Arrow keeps what the sorting of the uids took for a while, beside the start of the pools.
        pa.default_memory_pool().release_unused()
        #: What the answers cost, by role, those of earlier starts included.
        self.spent = {"teacher": 0.0, "judge": 0.0}
        #: Rows that were asked again because their shard was damaged or their process had died.
        self.repeated = 0
        self.damaged: list[str] = []

    @property
    def rounds(self) -> int:
        """The rounds that are finished."""
        return len(self._rounds)

    @property
    def starts(self) -> int:
        """How often the job was started."""
        return sum(row["round"] == 0 for row in read_jsonl(self._out / STARTS))

    def run(self) -> None:
        """Ask until all bands have ended."""
        for torn in (self._out / "shards").glob(".*.tmp"):
            torn.unlink()
        while len(asked := next_round(self.bands, self._config.run.seed, self.rounds)):
            files = RoundFiles(self._out, self.rounds, len(asked), self._config.aescot.shard_rows)
            files.write_plan(self._records, asked)
            record_verdicts(self.bands, asked, self._ask(files, np.zeros(len(asked), bool)))
            self._rounds.append((asked, files))
        shutil.rmtree(self._out / JOURNAL, ignore_errors=True)

    def tables(self) -> Iterator[pa.Table]:
        """The rows of all rounds in the order in which they were asked, a shard at a time.

        Critiques beyond what their band wants are not kept.
        """
        last = np.array([band.last for band in self.bands])
        for asked, files in self._rounds:
            surplus = asked.places > last[asked.bands]
            for shard in files.shards:
                table = files.read(shard)
                assert table is not None, files.path(shard)
                yield _without(table, surplus[files.rows(shard).start :][: len(table)])

    def _ask(self, files: RoundFiles, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Ask for the rows of a round that have no answer yet. Returns each row's verdict."""
        answers = Answers(files, keep)
        stretches: list[Sequence[int]] = []
        for shard in files.shards:
            there = files.path(shard).exists()
            table = files.read(shard)
            if table is not None:
                self._spend(table)
                answers.take_over(shard, table)
            elif there:
                self.damaged.append(files.path(shard).name)
                self.repeated += len(files.rows(shard))
            if missing := answers.missing(shard):
                stretches.append(missing)
        append_jsonl(
            self._out / STARTS,
            {"time": time.time(), "round": self.rounds, "shards": len(files.shards), "pending": len(stretches)},
        )
        # What the journals have was spent, too. It is counted when its rows come.
        noted = {role: noted_cost(files.journal, role) for role in self.spent}
        self._stream(answers, stretches, {role: self.spent[role] + noted[role] for role in noted})
        self._ask_one_by_one(answers)
        return keep

    def _ask_one_by_one(self, answers: Answers) -> None:
        """Ask once more for the rows that have no answer, each alone, and give up those that get
        none again."""
        rows = len(answers.keep)
        missing = [place for shard in answers.files.shards for place in answers.missing(shard)]
        self.repeated += sum(place not in answers.unanswered for place in missing)
        self._stream(answers, [[place] for place in missing], self.spent)
        silent = [place for place in missing if place in answers.unanswered and not answers.has(place)]
        if len(silent) == rows > 1:
            answers.flush()
            raise RapoError(f"the teacher answered none of {rows} rows: {answers.unanswered[silent[0]]}")
        for shard in answers.files.shards:
            for place in answers.missing(shard):
                answers.give_up(place)

    def _stream(self, answers: Answers, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]) -> None:
        if not stretches:
            return

        def collect() -> None:
            try:
                for table in self._judged(answers.files.plan, stretches, spent):
                    self._spend(table)
                    answers.add(table)
            except BaseException:
                answers.flush()
                raise

        run_limited(
            collect,
            role="teacher or judge",
            timeout_s=self._config.aescot.timeout_s,
            meanwhile=lambda: self._progress(sum(band.good for band in self.bands) + int(answers.keep.sum())),
        )

    def _spend(self, table: pa.Table) -> None:
        for role in self.spent:
            self.spent[role] += pc.sum(table[f"{role}_cost"]).as_py() or 0.0


def _without(table: pa.Table, surplus: NDArray[np.bool_]) -> pa.Table:
    """The table with its surplus critiques marked."""
    extra = pc.and_(table["keep"], pa.array(surplus))
    if not pc.any(extra).as_py():
        return table
    for name, value in (("keep", False), ("reason", SURPLUS), ("detail", _FULL)):
        column = pc.if_else(extra, pa.scalar(value, JUDGED.field(name).type), table[name])
        table = table.set_column(table.schema.get_field_index(name), JUDGED.field(name), column)
    return table


def _uid_column(records: RecordTable) -> pa.ChunkedArray:
    starts = range(0, len(records), _CHUNK)
    return pa.chunked_array([pa.array(records[at : at + _CHUNK].uids(), pa.string()) for at in starts], pa.string())

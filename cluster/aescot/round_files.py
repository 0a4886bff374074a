"""RoundFiles: the files of one round of AesCoT: its plan, its shards, and the journals of those
that are in work.

- The plan is an Arrow file that readers map into memory: the rows in the order in which they are
  asked. It follows from seed and verdicts before it, so that a continued job writes the same one.
- A shard is a Parquet file with the judged rows of one stretch of the plan. Its footer has their
  checksum. It appears whole or not at all, and changes only to get answers that it lacked.
- A damaged shard is set aside, and its rows are asked again. A shard of other rows is an error.
- The journals of a shard (`rapo.aescot.journal`) go when it is written.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cluster.files.atomic import write_atomic
from rapo.aescot.journal import drop_journals
from rapo.aescot.plan import Round
from rapo.aescot.rows import ASKED, JUDGED
from rapo.datasets.record_table import RecordTable
from rapo.errors import RunFolderError

#: The folder of the journals.
JOURNAL = "journal"

_DIGEST = b"rapo.checksum"
#: Rows of a plan that are turned into Python objects at a time, and lie in one batch of its file.
_BATCH = 1 << 13


class RoundFiles:
    """The files of round `number` below `folder`, in shards of `shard_rows` rows."""

    def __init__(self, folder: Path, number: int, rows: int, shard_rows: int) -> None:
        self.plan = folder / "plan" / f"{number:02d}.arrow"
        #: Begins the paths of the journals.
        self.journal = journal_of(self.plan)
        self._prefix = folder / "shards" / f"{number:02d}"
        self._rows = rows
        self._shard_rows = shard_rows

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(math.ceil(self._rows / self._shard_rows))

    def rows(self, shard: int) -> range:
        """The places of a shard's rows in the plan."""
        start = shard * self._shard_rows
        return range(start, min(start + self._shard_rows, self._rows))

    def shard_of(self, place: int) -> int:
        """The shard that a row of the plan belongs to."""
        return place // self._shard_rows

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self._prefix.with_name(f"{self._prefix.name}-{shard:05d}.parquet")

    def write_plan(self, records: RecordTable, asked: Round) -> None:
        """Write what is asked, few rows at a time."""
        for folder in (self.plan.parent, self.journal.parent):
            folder.mkdir(parents=True, exist_ok=True)
        aside = self.plan.with_suffix(".part")
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, ASKED) as writer:
            for table in _asked_tables(records, asked):
                writer.write_table(table)
        os.replace(aside, self.plan)

    def write(self, shard: int, rows: pa.Table) -> None:
        """Write the judged rows of a shard, in any order."""
        buffer = io.BytesIO()
        table = rows.cast(JUDGED).sort_by("place")
        pq.write_table(table.replace_schema_metadata({_DIGEST: _digest(table)}), buffer)
        write_atomic(self.path(shard), buffer.getvalue())
        drop_journals(self.journal, shard)

    def read(self, shard: int) -> pa.Table | None:
        """The rows of a shard; None where it is not there, or was damaged and has been set aside.

        Raises `RunFolderError` where it holds other rows than the plan.
        """
        path = self.path(shard)
        if not path.is_file():
            return None
        table = _read_whole(path)
        if table is None:
            os.replace(path, path.with_suffix(".damaged"))
            return None
        if not table.select(ASKED.names).equals(read_plan(self.plan, self.rows(shard))):
            raise RunFolderError(
                f"{path} holds other rows than this run asks for: the data or the version of rapo has changed since. "
                "Put it back as it was, or start a new run with another --out"
            )
        return table


def journal_of(plan: Path) -> Path:
    """What begins the paths of the journals of the round with this plan."""
    return plan.parent.with_name(JOURNAL) / plan.stem


def read_plan(plan: Path, places: Sequence[int]) -> pa.Table:
    """Some rows of a plan, by their places in ascending order."""
    rows = np.asarray(places, np.int64)
    with pa.memory_map(str(plan)) as file:
        batches = pa.ipc.open_file(file)
        # Taken from the whole plan, each of them would cost a copy of its columns.
        parts = [
            batches.get_batch(int(batch)).take(pa.array(rows[rows // _BATCH == batch] % _BATCH))
            for batch in np.unique(rows // _BATCH)
        ]
        return pa.Table.from_batches(parts, ASKED)


def _read_whole(path: Path) -> pa.Table | None:
    """The rows of a shard; None where they are not those that were written."""
    try:
        table = pq.read_table(path)
        said = (table.schema.metadata or {}).get(_DIGEST)
        whole = table.schema.equals(JUDGED) and said == _digest(table).encode()
    except (OSError, ValueError, pa.ArrowException):  # ValueError: text that is not UTF-8
        return None
    return table.replace_schema_metadata(None) if whole else None


def _digest(table: pa.Table) -> str:
    """The checksum of a table's values."""
    return xxhash.xxh3_128_hexdigest(json.dumps(table.to_pylist()).encode())


def _asked_tables(records: RecordTable, asked: Round) -> Iterator[pa.Table]:
    names, datasets = records.datasets
    for start in range(0, len(asked), _BATCH):
        rows = asked.records[start : start + _BATCH]
        # Sorted by source: the table goes through its rows in runs of one source.
        order = np.argsort(records.part[rows], kind="stable")
        back = pa.array(np.argsort(order))
        chosen = records.take(rows[order])
        yield pa.table(
            {
                "place": np.arange(start, start + len(rows)),
                "uid": pa.array(chosen.uids(), pa.string()).take(back),
                "dataset": pa.array(np.array(names)[datasets[rows]], pa.string()),
                "path": pa.array(chosen.files(), pa.string()).take(back),
                "score": records.scores[rows],
                "band": asked.bands[start : start + _BATCH],
            },
            schema=ASKED,
        )

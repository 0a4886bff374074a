"""CritiqueJob's memory: what the driver holds for a row of a job, without Ray."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster.aescot.job import CritiqueJob
from cluster.aescot.round_files import read_plan
from rapo.aescot.rows import JUDGED
from rapo.config import load_config
from rapo.datasets.labels import Labels
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale

#: Both are more than what turns to Python objects at a time, so that only rows make the difference.
FEW, MANY = 10_000, 25_000
#: The most bytes that a row may add to the peak: those of NumPy and Python, and those of Arrow.
PYTHON_BYTES, ARROW_BYTES = 48, 80

#: A pool must outlive its buffers.
_POOLS: list[pa.MemoryPool] = []


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the peak of a job, beyond its labels."""

    python: int
    arrow: int


def test_a_row_takes_few_bytes_of_the_driver(tmp_path: Path, pool: pa.MemoryPool) -> None:
    few, many = (peak(tmp_path / str(rows), rows, pool) for rows in (FEW, MANY))
    assert (many.python - few.python) / (MANY - FEW) < PYTHON_BYTES
    assert (many.arrow - few.arrow) / (MANY - FEW) < ARROW_BYTES


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Arrow's own pool, which is in use again at the end."""
    own = pa.default_memory_pool()
    yield own
    pa.set_memory_pool(own)


def peak(out: Path, rows: int, pool: pa.MemoryPool) -> Peak:
    """The peak of a job that asks about all of so many rows."""
    config = load_config(None, [f"aescot.images={rows}", "aescot.shard_rows=512", "aescot.refill=0"])
    table = records(rows)
    counted = pa.proxy_memory_pool(pool)
    _POOLS.append(counted)
    pa.set_memory_pool(counted)
    gc.collect()
    tracemalloc.start()
    try:
        job = CritiqueJob(config, table, out, answer, lambda kept: None)
        job.run()
        assert sum(len(judged) for judged in job.tables()) == rows
        return Peak(tracemalloc.get_traced_memory()[1], counted.max_memory())
    finally:
        tracemalloc.stop()


def records(rows: int) -> RecordTable:
    names = pa.chunked_array([pc.utf8_lpad(pa.array(range(rows)).cast(pa.string()), 8, "0")])
    labels = Labels(Path("/images"), names, names, np.random.default_rng(0).uniform(0, 1, rows), np.arange(rows))
    scale = Scale((0.0, 1.0), "minmax", 0.0, 1.0, 1.0)
    return RecordTable.of([RecordPart("one", labels, scale, np.zeros(rows, np.int8))])


def answer(plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]) -> Iterator[pa.Table]:
    """Keeps all."""
    for places in stretches:
        asked = read_plan(plan, places)
        columns = {name: asked[name] for name in asked.column_names}
        columns["keep"] = pa.chunked_array([pa.array(np.ones(len(asked), bool))])
        nulls = pa.nulls(len(asked))
        yield pa.table([columns.get(field.name, nulls).cast(field.type) for field in JUDGED], schema=JUDGED)

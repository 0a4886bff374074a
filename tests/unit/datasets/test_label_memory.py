"""Labels' memory: what a row of a table takes while it is read, and columns that grow in one
piece."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rapo.config import DataConfig
from rapo.datasets.files.growing import GrowingNumbers, GrowingStrings
from rapo.datasets.sources import read_parts

#: Both are more than what is worked on at a time, so that only rows make the difference.
FEW, MANY = 100_000, 300_000
#: A name with its end, score and place are 44 bytes, and a column that grows has room to spare:
#: 58 in all. Columns in pieces that are joined at the end made it 83.
BYTES = 70

#: A pool must outlive its buffers.
_POOLS: list[pa.MemoryPool] = []


def test_a_row_takes_little_more_than_its_name_and_its_numbers(tmp_path: Path, pool: pa.MemoryPool) -> None:
    few, many = (peak(tmp_path / f"{rows}.csv", rows, pool) for rows in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < BYTES


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Arrow's own pool, which is in use again at the end."""
    own = pa.default_memory_pool()
    yield own
    pa.set_memory_pool(own)


def peak(path: Path, rows: int, pool: pa.MemoryPool) -> int:
    """The most bytes that Python, NumPy and Arrow hold while so many rows are read."""
    path.write_text("image,score\n" + "".join(f"photos/{row:09d}.jpg,0.5{row}\n" for row in range(rows)))
    counted = pa.proxy_memory_pool(pool)
    _POOLS.append(counted)
    pa.set_memory_pool(counted)
    gc.collect()
    tracemalloc.start()
    try:
        (part,) = read_parts(DataConfig(path=path), 0, None)
        assert len(part.records.labels) == rows
        return tracemalloc.get_traced_memory()[1] + counted.max_memory()
    finally:
        tracemalloc.stop()


def test_strings_are_those_of_all_batches_whatever_part_of_a_buffer_they_are() -> None:
    column = GrowingStrings()
    whole = pa.array(["a", "", "ü", "ccc", "d"], pa.large_string())
    for batch in (whole[:0], whole[1:4], pa.array(["", ""], pa.large_string()), whole):
        column.extend(batch)
    assert column.column().to_pylist() == ["", "ü", "ccc", "", "", *whole.to_pylist()]
    assert column.column().validate(full=True) is None
    assert len(GrowingStrings().column()) == 0


def test_numbers_are_those_of_all_batches_and_may_be_written() -> None:
    column = GrowingNumbers(np.int64)
    for batch in (np.arange(3), np.zeros(0, np.int64), np.arange(6, dtype=np.int32)[::2]):
        column.extend(batch)
    values = column.column()
    assert (values.dtype, values.tolist()) == (np.int64, [0, 1, 2, 0, 2, 4])
    values[0] = 7

"""ShardSource: what its read tasks read, and where they may run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.aescot.round_files import RoundFiles, read_plan
from cluster.aescot.source import ShardSource
from rapo.aescot.plan import Round
from rapo.aescot.rows import READ
from rapo.config import ImageConfig
from rapo.datasets.labels import Labels
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale

ROWS = 50


@pytest.mark.parametrize("rows", [[0, 6, 7, 20, 49], range(3, 40), range(7, 14), []])
def test_rows_of_a_plan_are_read_from_all_of_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int]
) -> None:
    monkeypatch.setattr("cluster.aescot.round_files._BATCH", 7)
    order = np.random.default_rng(0).permutation(ROWS).astype(np.int32)
    files = RoundFiles(tmp_path / "out", 0, ROWS, 40)
    files.write_plan(records(tmp_path), Round(order, np.zeros(ROWS, np.int16), np.arange(ROWS, dtype=np.int32)))
    read = read_plan(files.plan, rows)
    assert read["place"].to_pylist() == list(rows)
    assert read["uid"].to_pylist() == [f"made/{order[row]}.jpg" for row in rows]


def records(folder: Path) -> RecordTable:
    names = pa.chunked_array([pa.array(f"{number}.jpg" for number in range(ROWS))])
    labels = Labels(folder, names, names, np.linspace(0, 1, ROWS), np.arange(ROWS))
    part = RecordPart("made", labels, Scale((0.0, 1.0), "minmax", 0.0, 1.0, 1.0), np.zeros(ROWS, np.int8))
    return RecordTable.of([part])


def test_a_read_task_gives_its_rows_with_the_bytes_of_their_images(tmp_path: Path) -> None:
    for number in range(ROWS):
        (tmp_path / f"{number}.jpg").write_text(f"image {number}")
    (tmp_path / "7.jpg").unlink()
    order = np.random.default_rng(0).permutation(ROWS).astype(np.int32)
    files = RoundFiles(tmp_path / "out", 0, ROWS, 40)
    files.write_plan(records(tmp_path), Round(order, np.zeros(ROWS, np.int16), np.arange(ROWS, dtype=np.int32)))

    source = ShardSource(files.plan, [files.rows(0), [41, 49]], ImageConfig())
    assert not source.supports_distributed_reads, "another node would need the images"
    whole, some = (list(task()) for task in source.get_read_tasks(2))
    assert len(whole) > 1, "all images of a shard are in memory at once"
    rows = pa.concat_tables([*whole, *some])
    assert rows.schema == READ
    assert rows["place"].to_pylist() == [*range(40), 41, 49]
    for row in rows.to_pylist():
        number = int(order[row["place"]])
        assert row["uid"] == f"made/{number}.jpg"
        if number == 7:
            assert (row["image"], row["reason"]) == (None, "image")
        else:
            assert (row["image"], row["problem"]) == (f"image {number}".encode(), None)

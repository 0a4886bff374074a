"""Critique job: the job of AesCoT on generated images, as a process that a benchmark or a test may
kill.

    python -m bench.support.critique_job FOLDER ROWS [SETTING...]

Asks about so many rows of half as many again. `FOLDER/images` is made if it is not there. Leaves
`FOLDER/critiques.parquet`, and prints the counts as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.support.critique_roles import CoinJudge, SlowTeacher
from cluster.files.parquet import parquet_writer
from cluster.remote.ray_session import prepare_environment, ray_session
from rapo.aescot.rows import JUDGED
from rapo.config import load_config
from rapo.datasets.labels import Labels
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale

_FILES, _BYTES = 500, 16 * 1024


def records(images: Path, rows: int) -> RecordTable:
    """A collection of so many rows, whose images are a few hundred files."""
    images.mkdir(parents=True, exist_ok=True)
    for number in range(_FILES):
        path = images / f"{number}.jpg"
        if not path.is_file():
            path.write_bytes(np.random.default_rng(number).bytes(_BYTES))
    names = pa.chunked_array([pa.array(f"{row:07d}" for row in range(rows))])
    files = pa.chunked_array([pa.array(f"{row % _FILES}.jpg" for row in range(rows))])
    labels = Labels(images, names, files, np.random.default_rng(0).uniform(0.0, 1.0, rows), np.arange(rows))
    scale = Scale((0.0, 1.0), "minmax", 0.0, 1.0, 1.0)
    return RecordTable.of([RecordPart("made", labels, scale, np.zeros(rows, np.int8))])


def main(folder: Path, rows: int, settings: list[str]) -> None:
    config = load_config(None, [f"aescot.images={rows}", *settings])
    prepare_environment(config)  # before Ray is imported
    from cluster.aescot.job import CritiqueJob
    from cluster.aescot.stream import Roles, judged_rows

    table = records(folder / "images", rows + rows // 2)
    with ray_session(config):
        ask = partial(judged_rows, config, Roles(SlowTeacher, CoinJudge))
        job = CritiqueJob(config, table, folder, ask, lambda kept: None)
        job.run()
    reasons: Counter[str] = Counter()
    with parquet_writer(folder / "critiques.parquet", JUDGED) as writer:
        for judged in job.tables():
            writer.write_table(judged)
            reasons.update(reason or "kept" for reason in judged["reason"].to_pylist())
    bands = {band.name: [band.wanted, band.asked, band.kept, band.end] for band in job.bands}
    counts = {"reasons": dict(reasons), "bands": bands, "rounds": job.rounds, "starts": job.starts}
    sys.stdout.write(json.dumps({**counts, "repeated": job.repeated}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

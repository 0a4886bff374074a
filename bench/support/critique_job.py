"""Critique job: the job of AesCoT on generated images, as a process that a benchmark or a test may
kill.

    python -m bench.support.critique_job FOLDER ROWS [--without-ray] [SETTING...]

Asks about so many rows of half as many again. `FOLDER/images` is made if it is not there. Leaves
`FOLDER/critiques.parquet`, and prints the counts as JSON. Without Ray, reader, teacher and judge
take turns in this process: what is left is the driver's own part.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from actors.guarded import GuardedJudge, GuardedTeacher
from bench.support.critique_roles import CoinJudge, SlowTeacher
from cluster.aescot.round_files import read_plan
from cluster.files.parquet import parquet_writer
from cluster.remote.ray_session import prepare_environment, ray_session
from rapo.aescot.read_images import ImageReader
from rapo.aescot.rows import JUDGED
from rapo.config import Config, load_config
from rapo.datasets.labels import Labels
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale

if TYPE_CHECKING:
    from cluster.aescot.job import Ask

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


def in_process(config: Config) -> Ask:
    """Answers stretches of a plan one after the other."""
    teacher, judge = GuardedTeacher(SlowTeacher, config), GuardedJudge(CoinJudge, config)

    def ask(plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]) -> Iterator[pa.Table]:
        for places in stretches:
            yield judge(teacher(ImageReader(config.image)(read_plan(plan, places))))

    return ask


def main(folder: Path, rows: int, settings: list[str]) -> None:
    with_ray = "--without-ray" not in settings
    changes = [setting for setting in settings if setting != "--without-ray"]
    config = load_config(None, [f"aescot.images={rows}", *changes])
    prepare_environment(config)  # before Ray is imported
    from cluster.aescot.job import CritiqueJob
    from cluster.aescot.stream import Roles, judged_rows

    table = records(folder / "images", rows + rows // 2)
    with ray_session(config) if with_ray else nullcontext():
        roles = Roles(SlowTeacher, CoinJudge)
        ask: Ask = partial(judged_rows, config, roles) if with_ray else in_process(config)
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

"""AesCoT as a job with Ray Data: its driver is killed twice, a process of its pools dies over a
row, a pool shrinks and grows, and an error that concerns all rows ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.roles import TeacherRole
from bench.support.critique_job import in_process, records
from bench.support.critique_roles import LATENCY, LOG, CoinJudge
from cluster.aescot import source
from cluster.aescot.job import CritiqueJob
from cluster.aescot.stream import Roles, judged_rows
from rapo.config import Config, load_config
from rapo.errors import RapoError
from tests.integration.deadly_teacher import (
    DEADLY,
    STOPPED,
    BrokeTeacher,
    DeadlyTeacher,
    GatedRead,
    OnceDeadlyTeacher,
    PooledTeacher,
    living,
)
from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration]

ROWS, SHARD, BATCH, TEACHERS = 320, 16, 8, 2
SETTINGS = (
    f"aescot.shard_rows={SHARD}",
    f"aescot.batch_size={BATCH}",
    f"aescot.teacher.actors={TEACHERS}",
    "aescot.refill=1",
)


def config(rows: int, *settings: str) -> Config:
    return load_config(None, [f"aescot.images={rows}", *SETTINGS, *settings])


def expected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The rows of the same job without Ray and without an interruption."""
    monkeypatch.setenv(LOG, str(folder / "asked-without-ray.txt"))
    monkeypatch.setenv(LATENCY, "0")
    settings = config(ROWS)
    table = records(folder / "images", ROWS + ROWS // 2)
    job = CritiqueJob(settings, table, folder / "whole", in_process(settings), lambda kept: None)
    job.run()
    return [row for table in job.tables() for row in table.to_pylist()]


@pytest.mark.release
def test_two_kills_of_the_driver_change_nothing_and_ask_nothing_twice_that_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(tmp_path, monkeypatch)
    questions = tmp_path / "asked.txt"
    for shards in (4, 12):
        kill_after(tmp_path, questions, shards)
        written = {row["uid"] for path in shard_files(tmp_path) for row in pq.read_table(path).to_pylist()}
        before = Counter(questions.read_text().split())
    job = begin(tmp_path, questions)
    printed, _ = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0
    counts = json.loads(printed)
    assert pq.read_table(tmp_path / "critiques.parquet").to_pylist() == wanted
    assert counts["starts"] == 3
    asked = Counter(questions.read_text().split())
    assert not {uid for uid in written if asked[uid] > before[uid]}, "a written row was asked again"
    assert set(asked) == {row["uid"] for row in wanted}
    assert asked.total() - len(asked) <= 2 * TEACHERS * BATCH, "a kill costs a batch of each teacher"
    assert not (tmp_path / "journal").exists()
    assert {band[3] for band in counts["bands"].values()} == {"full"}


def begin(folder: Path, questions: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.support.critique_job", str(folder), str(ROWS), *SETTINGS]
    environment = {**os.environ, LOG: str(questions), LATENCY: "0.1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def kill_after(folder: Path, questions: Path, shards: int) -> None:
    """Start the job, and kill it when it has written so many shards in all."""
    with begin(folder, questions) as job:
        deadline = time.monotonic() + PATIENCE_S
        while len(shard_files(folder)) < shards:
            assert job.poll() is None, "the job ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.kill()


def shard_files(folder: Path) -> list[Path]:
    return list((folder / "shards").glob("*.parquet"))


def run(
    folder: Path,
    teacher: Callable[[Config, float], TeacherRole],
    *settings: str,
    progress: Callable[[int], None] = lambda kept: None,
) -> CritiqueJob:
    made = config(64, "aescot.bands=[0.0, 1.0]", "aescot.shard_rows=8", "aescot.refill=0", *settings)
    ask = partial(judged_rows, made, Roles(teacher, CoinJudge))
    job = CritiqueJob(made, records(folder / "images", 64), folder, ask, progress)
    job.run()
    return job


@pytest.mark.long
def test_a_row_that_kills_its_process_is_given_up_and_the_others_are_judged(tmp_path: Path, local_ray: None) -> None:
    job = run(tmp_path, DeadlyTeacher)
    rows = {row["uid"]: row for table in job.tables() for row in table.to_pylist()}
    assert len(rows) == 64
    assert {uid for uid, row in rows.items() if row["reason"] == "lost"} == {DEADLY}
    assert sum(row["keep"] for row in rows.values()) == job.bands[0].kept > 40
    assert 8 <= job.repeated <= 24  # its shard, and what waited behind it in the same process


def test_a_process_that_dies_once_is_started_again_and_answers_what_it_had(tmp_path: Path, local_ray: None) -> None:
    job = run(tmp_path, partial(OnceDeadlyTeacher, tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert (job.repeated, job.rounds) == (0, 1)
    assert "lost" not in {row["reason"] for table in job.tables() for row in table.to_pylist()}


@pytest.mark.long
def test_a_pool_shrinks_while_its_rows_are_read_and_grows_when_they_come(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, pool = tmp_path / "gate", tmp_path / "pool"
    pool.mkdir()
    sizes = []

    def watch(kept: int) -> None:
        sizes.append(len(living(pool)))
        if 3 in sizes and sizes[-1] == 1:
            gate.touch()

    monkeypatch.setattr(source, "_Read", partial(GatedRead, gate))
    job = run(tmp_path, partial(PooledTeacher, pool), "aescot.teacher.actors=3", progress=watch)
    assert gate.exists(), "the pool was small while the job ran"
    assert len(list(pool.iterdir())) > 3, "further processes were started"
    assert max(sizes) == 3
    assert [len(table) for table in job.tables()] == [8] * 8
    assert job.repeated == 0


def test_an_error_that_concerns_all_rows_ends_the_job_and_what_is_written_stays(
    tmp_path: Path, local_ray: None
) -> None:
    with pytest.raises(RapoError, match="the budget is spent"):
        run(tmp_path, BrokeTeacher)
    written = [row["uid"] for path in shard_files(tmp_path) for row in pq.read_table(path).to_pylist()]
    assert STOPPED not in written

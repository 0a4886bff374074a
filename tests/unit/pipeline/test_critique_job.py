"""CritiqueJob without Ray: what is asked again after an interruption, in what order answers may
come, and what a damaged or lost row costs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.aescot.answers import Answers
from cluster.aescot.job import CritiqueJob
from cluster.aescot.round_files import RoundFiles, journal_of, read_plan
from rapo.aescot.journal import Journal
from rapo.aescot.rows import JUDGED
from rapo.config import Config, load_config
from rapo.datasets.labels import Labels
from rapo.datasets.record_table import RecordPart, RecordTable
from rapo.datasets.scales import Scale
from rapo.errors import RapoError, RoleError, RunFolderError

ROWS, WANTED = 400, 120


class Interrupted(Exception):
    """Stands for a kill."""


class Asked:
    """Judges by the uid, in an order of its own. It counts what it was asked, and may be
    interrupted after some answers. It may lose rows, leave them unanswered, or stop at one."""

    def __init__(
        self,
        seed: int = 0,
        *,
        lose: Iterable[str] = (),
        silent: Iterable[str] = (),
        stop: str | None = None,
        answers: int = 10**9,
    ) -> None:
        self.uids: Counter[str] = Counter()
        self.answers = answers
        self.spent: list[float] = []
        self._lose, self._silent, self._stop = set(lose), set(silent), stop
        self._random = random.Random(seed)

    def __call__(
        self, plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]
    ) -> Iterator[pa.Table]:
        self.spent.append(spent["teacher"])
        rows = [row for places in stretches for row in read_plan(plan, places).to_pylist()]
        self._random.shuffle(rows)
        while rows:
            block, rows = rows[:7], rows[7:]
            self.uids.update(row["uid"] for row in block)
            self.answers -= 1
            if self.answers < 0:
                raise Interrupted
            block = [row for row in block if row["uid"] not in self._lose]
            yield pa.Table.from_pylist([row | self._answer(row["uid"]) for row in block], schema=JUDGED)

    def _answer(self, uid: str) -> dict[str, object]:
        if uid == self._stop:
            return {"problem": "no money", "reason": "stop", "keep": False, "detail": "no money", "judge_cost": 4.0}
        if uid in self._silent:
            failed = {"problem": "status 500", "reason": "unanswered", "keep": False, "detail": "status 500"}
            return failed | {"teacher_cost": 0.25, "teacher_prompt_tokens": 10}
        return judged(uid)


def judged(uid: str) -> dict[str, object]:
    keep = int(uid.rpartition("/")[2]) % 3 > 0
    return {
        "critique": f"about {uid}",
        "keep": keep,
        "reason": None if keep else "factual",
        "detail": "",
        "teacher_cost": 0.5,
    }


@pytest.fixture
def records(tmp_path: Path) -> RecordTable:
    """Two sources, whose rows alternate."""
    rng = np.random.default_rng(0)
    parts = []
    for name in ("one", "two"):
        names = pa.chunked_array([pa.array(f"{row:03d}" for row in range(ROWS // 2))])
        labels = Labels(tmp_path / name, names, names, rng.uniform(0, 1, ROWS // 2), np.arange(ROWS // 2))
        parts.append(RecordPart(name, labels, Scale((0.0, 1.0), "minmax", 0.0, 1.0, 1.0), np.zeros(ROWS // 2, np.int8)))
    return RecordTable.of(parts).take(rng.permutation(ROWS))


def config(*settings: str) -> Config:
    return load_config(None, [f"aescot.images={WANTED}", "aescot.shard_rows=16", "aescot.refill=3", *settings])


def run(out: Path, records: RecordTable, asked: Asked, *settings: str) -> CritiqueJob:
    job = CritiqueJob(config(*settings), records, out, asked, lambda kept: None)
    job.run()
    return job


def rows(job: CritiqueJob) -> list[dict[str, object]]:
    return [row for table in job.tables() for row in table.to_pylist()]


def test_every_band_is_filled_with_rows_of_the_source(tmp_path: Path, records: RecordTable) -> None:
    asked = Asked()
    job = run(tmp_path / "out", records, asked)
    assert [(band.kept, band.end) for band in job.bands] == [(WANTED // 3, "full")] * 3
    assert job.rounds > 1
    assert max(asked.uids.values()) == 1
    by_uid = {record.uid: record for record in records}
    for row in rows(job):
        record = by_uid[str(row["uid"])]
        assert (row["dataset"], row["path"], row["score"]) == (record.dataset, str(record.path), record.score)
    reasons = Counter(row["reason"] for row in rows(job))
    assert reasons[None] == WANTED
    assert reasons["factual"] == sum(int(uid.rpartition("/")[2]) % 3 == 0 for uid in asked.uids)
    assert reasons.total() == len(asked.uids)


def test_the_order_of_answers_changes_nothing(tmp_path: Path, records: RecordTable) -> None:
    one = run(tmp_path / "one", records, Asked(seed=1))
    two = run(tmp_path / "two", records, Asked(seed=2))
    assert rows(one) == rows(two)
    assert rows(run(tmp_path / "three", records, Asked(), "run.seed=1")) != rows(one)


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("answers", [0, 1, 9, 17, 25])
def test_after_an_interruption_only_what_has_no_answer_is_asked_again(
    tmp_path: Path, records: RecordTable, monkeypatch: pytest.MonkeyPatch, answers: int, killed: bool
) -> None:
    whole = run(tmp_path / "whole", records, Asked(seed=5))
    first = Asked(seed=1, answers=answers)
    if killed:
        monkeypatch.setattr(Answers, "flush", lambda self: None)
    with pytest.raises(RoleError, match="teacher or judge failed"):
        run(tmp_path / "out", records, first)
    written = answered(tmp_path / "out")
    second = Asked(seed=2)
    job = run(tmp_path / "out", records, second)
    assert rows(job) == rows(whole)
    assert job.starts == 2
    assert not written & second.uids.keys(), "a written row was asked again"
    assert set(first.uids) | set(second.uids) == {str(row["uid"]) for row in rows(whole)}
    if not killed:  # the block of up to seven rows that was in flight
        assert 0 < sum((first.uids & second.uids).values()) <= 7


def answered(out: Path) -> set[str]:
    """The rows whose answers are in shards."""
    found = [row for path in (out / "shards").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["uid"] for row in found if row["reason"] != "unanswered"}


def test_a_finished_job_asks_nothing(tmp_path: Path, records: RecordTable) -> None:
    once = run(tmp_path / "out", records, Asked())
    again = Asked()
    assert rows(run(tmp_path / "out", records, again)) == rows(once)
    assert not again.uids


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_shard_is_set_aside_and_asked_again(tmp_path: Path, records: RecordTable, damage: str) -> None:
    whole = run(tmp_path / "out", records, Asked())
    path = tmp_path / "out" / "shards" / "00-00003.parquet"
    content = path.read_bytes()
    if damage == "other":
        table = pq.read_table(path)
        pq.write_table(table.set_column(8, "critique", pa.array(["forged"] * len(table), pa.string())), path)
    else:
        path.write_bytes(content[: {"cut": 500, "empty": 0}[damage]])
    asked = Asked()
    job = run(tmp_path / "out", records, asked)
    assert rows(job) == rows(whole)
    assert (job.damaged, job.repeated, asked.uids.total()) == ([path.name], 16, 16)
    assert path.with_suffix(".damaged").is_file()


def test_rows_that_end_their_process_are_asked_alone_and_then_given_up(tmp_path: Path, records: RecordTable) -> None:
    whole = run(tmp_path / "whole", records, Asked())
    victims = [str(row["uid"]) for row in rows(whole) if row["keep"]][:3]
    asked = Asked(lose=victims)
    job = run(tmp_path / "out", records, asked)
    lost = {row["uid"]: row for row in rows(job) if row["reason"] == "lost"}
    assert set(lost) == set(victims)
    assert all("died twice" in str(row["detail"]) and row["keep"] is False for row in lost.values())
    assert job.repeated == len(victims)
    assert all(band.kept == WANTED // 3 for band in job.bands), "others have taken their place"


def test_a_row_that_nothing_answers_is_asked_once_more_and_another_takes_its_place(
    tmp_path: Path, records: RecordTable
) -> None:
    whole = run(tmp_path / "whole", records, Asked())
    silent = [str(row["uid"]) for row in rows(whole) if row["keep"]][:3]
    asked = Asked(silent=silent)
    job = run(tmp_path / "out", records, asked)
    assert [asked.uids[uid] for uid in silent] == [2, 2, 2]
    given_up = {row["uid"]: (row["reason"], row["detail"]) for row in rows(job) if row["uid"] in silent}
    assert given_up == dict.fromkeys(silent, ("teacher", "status 500"))
    paid = {(row["teacher_cost"], row["teacher_prompt_tokens"]) for row in rows(job) if row["uid"] in silent}
    assert paid == {(0.5, 20)}, "both tries have cost something"
    assert all(band.kept == WANTED // 3 for band in job.bands)


def test_a_teacher_that_answers_nothing_ends_the_job(tmp_path: Path, records: RecordTable) -> None:
    with pytest.raises(RapoError, match=r"answered none of 120 rows: status 500"):
        run(tmp_path / "out", records, Asked(silent=[record.uid for record in records]))
    job, whole = (run(tmp_path / out, records, Asked()) for out in ("out", "whole"))
    assert [row["critique"] for row in rows(job)] == [row["critique"] for row in rows(whole)]
    assert {row["teacher_cost"] for row in rows(job)} == {0.5 + 2 * 0.25, 0.5}


def test_a_teacher_that_stops_ends_the_job_which_then_goes_on_and_knows_what_was_spent(
    tmp_path: Path, records: RecordTable
) -> None:
    whole = run(tmp_path / "whole", records, Asked())
    first = Asked(seed=1, stop=str(rows(whole)[50]["uid"]))
    with pytest.raises(RapoError, match="no money"):
        run(tmp_path / "out", records, first)
    had = answered(tmp_path / "out")
    assert len(had) == first.uids.total() - 1
    second = Asked(seed=2)
    job = run(tmp_path / "out", records, second)
    assert [row["critique"] for row in rows(job)] == [row["critique"] for row in rows(whole)]
    assert not had & second.uids.keys()
    assert second.spent[0] == len(had) / 2
    assert job.spent == {"teacher": len(rows(whole)) / 2, "judge": 4.0}
    assert [row["judge_cost"] for row in rows(job) if row["judge_cost"]] == [4.0]


def test_what_rows_without_an_answer_have_cost_is_known_to_every_later_start(
    tmp_path: Path, records: RecordTable
) -> None:
    silent = [record.uid for record in records]
    for start in range(2):
        asked = Asked(seed=start, silent=silent)
        with pytest.raises(RapoError, match="answered none of"):
            run(tmp_path / "out", records, asked)
        assert asked.spent[0] == start * 2 * WANTED * 0.25


def test_shards_of_other_data_are_refused(tmp_path: Path, records: RecordTable) -> None:
    run(tmp_path / "out", records, Asked())
    order = np.r_[1:ROWS]
    with pytest.raises(RunFolderError, match="another --out"):
        run(tmp_path / "out", records.take(order), Asked())


def test_no_flipped_bit_goes_unseen(tmp_path: Path, records: RecordTable) -> None:
    run(tmp_path / "out", records, Asked())
    path = tmp_path / "out" / "shards" / "00-00003.parquet"
    files = RoundFiles(tmp_path / "out", 0, WANTED, 16)
    good, content = files.read(3), path.read_bytes()
    seen = 0
    for position in range(4, len(content) - 8, 97):
        torn = bytearray(content)
        torn[position] ^= 16
        path.write_bytes(torn)
        found = files.read(3)
        assert found is None or found.equals(good)  # no value depends on some bytes
        seen += found is None
    assert seen > 20


class Noted(Asked):
    """Has a journal, as the processes of a pool do. Answers that are on their way at the kill are
    lost."""

    def __call__(
        self, plan: Path, stretches: Sequence[Sequence[int]], spent: Mapping[str, float]
    ) -> Iterator[pa.Table]:
        self.spent.append(spent["teacher"])
        journal = Journal(journal_of(plan), 16, "teacher", "settings")
        for places in stretches:
            rows = [row | {"reason": None} for row in read_plan(plan, places).to_pylist()]
            for start in range(0, len(rows), 8):
                self.answers -= 1
                if self.answers < 0:
                    raise Interrupted
                journal.answered(rows[start : start + 8], self._ask)
            yield pa.Table.from_pylist(rows, schema=JUDGED)

    def _ask(self, rows: Sequence[dict[str, object]]) -> None:
        self.uids.update(str(row["uid"]) for row in rows)
        for row in rows:
            row.update(judged(str(row["uid"])))


@pytest.mark.parametrize("answers", [0, 1, 2, 9, 15])
def test_after_a_kill_nothing_is_asked_again_that_is_in_a_journal(
    tmp_path: Path, records: RecordTable, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    whole = run(tmp_path / "whole", records, Asked())
    first, second = Noted(answers=answers), Noted()
    monkeypatch.setattr(Answers, "flush", lambda self: None)
    with pytest.raises(RoleError, match="teacher or judge failed"):
        run(tmp_path / "out", records, first)
    job = run(tmp_path / "out", records, second)
    assert rows(job) == rows(whole)
    assert not first.uids.keys() & second.uids.keys()
    assert second.spent[0] == first.uids.total() / 2, "what is in a journal was spent"
    assert job.spent["teacher"] == len(rows(whole)) / 2
    assert not (tmp_path / "out" / "journal").exists()

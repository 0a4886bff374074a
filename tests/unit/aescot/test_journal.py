"""The journal of a teacher and a judge: which answers a later process has, and what it asks for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from actors.guarded import GuardedJudge, GuardedTeacher
from actors.roles import Critiques, ImageBatch, Verdicts, WrittenBatch
from rapo.aescot.journal import Journal, drop_journals, noted_cost
from rapo.aescot.rows import READ
from rapo.chat.types import Usage
from rapo.config import Config

CONFIG, SHARD = Config(), 4


class Teacher:
    """Writes a critique with a number of its own, which costs a half. It counts its questions."""

    asked: list[str]
    problems: dict[str, str]

    def __init__(self, config: Config, spent: float) -> None:
        pass

    def __call__(self, batch: ImageBatch) -> Critiques:
        reasons = [Teacher.problems.get(uid) for uid in batch["uid"]]
        texts = [None if uid in Teacher.problems else f"{uid} ü {len(Teacher.asked)}" for uid in batch["uid"]]
        Teacher.asked += batch["uid"]
        usage = [Usage(10, 5, 0.5)] * len(texts)
        return {"critique": texts, "problem": reasons, "reason": reasons, "usage": usage, "model": ["m"] * len(texts)}


class Judge:
    """Keeps all."""

    asked: list[str]

    def __init__(self, config: Config, spent: float) -> None:
        pass

    def __call__(self, batch: WrittenBatch) -> Verdicts:
        Judge.asked += batch["critique"]
        count = len(batch["uid"])
        return {"keep": [True] * count, "reason": [None] * count, "detail": [""] * count}


@pytest.fixture(autouse=True)
def unasked() -> None:
    Teacher.asked, Teacher.problems, Judge.asked = [], {}, []


def journal(
    folder: Path, role: str = "teacher", settings: str = "s", number: int = 0, *, reads: bool = True
) -> Journal:
    return Journal(folder / f"{number:02d}", SHARD, role, settings, reads=reads)


def teacher(folder: Path, settings: str = "s", number: int = 0, *, reads: bool = True) -> GuardedTeacher:
    """A teacher of a new process."""
    return GuardedTeacher(Teacher, CONFIG, journal=journal(folder, "teacher", settings, number, reads=reads))


def judge(folder: Path) -> GuardedJudge:
    return GuardedJudge(Judge, CONFIG, journal=journal(folder, "judge"))


def rows(*places: int) -> pa.Table:
    made = [{"place": place, "uid": f"u{place}", "score": 0.5, "image": b"bytes"} for place in places]
    return pa.Table.from_pylist(made, schema=READ)


def test_a_later_process_has_the_answers_and_asks_for_the_others_only(tmp_path: Path) -> None:
    first = teacher(tmp_path)(rows(0, 1, 5))
    judged = judge(tmp_path)(first)
    again = teacher(tmp_path)(rows(0, 1, 2, 5, 6))
    assert Teacher.asked == ["u0", "u1", "u5", "u2", "u6"]
    assert again.take([0, 1, 3]).equals(first)
    assert judge(tmp_path)(again).take([0, 1, 3]).equals(judged)
    assert len(Judge.asked) == 5


def test_what_a_kill_has_torn_is_asked_again_and_tears_nothing_else(tmp_path: Path) -> None:
    teacher(tmp_path)(rows(0, 1))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    teacher(tmp_path)(rows(0, 1))
    assert Teacher.asked == ["u0", "u1", "u1"]
    teacher(tmp_path)(rows(0, 1))
    assert Teacher.asked == ["u0", "u1", "u1"]


@pytest.mark.parametrize("other", [{"settings": "another prompt"}, {"number": 1}])
def test_answers_to_another_prompt_or_of_another_round_are_not_used(tmp_path: Path, other: dict) -> None:
    teacher(tmp_path)(rows(0))
    teacher(tmp_path, **other)(rows(0))
    assert Teacher.asked == ["u0", "u0"]


def test_answers_of_another_shard_are_not_used(tmp_path: Path) -> None:
    teacher(tmp_path)(rows(0))
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(path.name.replace("00000", "00001")))
    teacher(tmp_path)(rows(0))
    assert Teacher.asked == ["u0", "u0"]


def test_a_verdict_is_that_of_its_critique(tmp_path: Path) -> None:
    for again in (teacher(tmp_path, "one"), teacher(tmp_path, "another")):
        judge(tmp_path)(again(rows(0)))
    assert Judge.asked == ["u0 ü 0", "u0 ü 1"]


def test_no_answer_is_in_the_journal_and_a_failure_is(tmp_path: Path) -> None:
    Teacher.problems = {"u0": "unanswered", "u1": "stop", "u2": "refusal"}
    teacher(tmp_path)(rows(0, 1, 2))
    again = teacher(tmp_path)(rows(0, 1, 2))
    assert Teacher.asked == ["u0", "u1", "u2", "u0", "u1"]
    assert again["reason"].to_pylist() == ["unanswered", "stop", "refusal"]


def test_rows_that_are_asked_alone_are_asked_whatever_the_journal_has(tmp_path: Path) -> None:
    teacher(tmp_path)(rows(0))
    teacher(tmp_path, reads=False)(rows(0))
    assert Teacher.asked == ["u0", "u0"]


def test_the_cost_of_what_is_noted_is_known_until_its_shard_is_written(tmp_path: Path) -> None:
    teacher(tmp_path)(rows(0, 1, 5))
    teacher(tmp_path, "another prompt")(rows(0))
    assert noted_cost(tmp_path / "00", "teacher") == 2.0
    assert (noted_cost(tmp_path / "00", "judge"), noted_cost(tmp_path / "01", "teacher")) == (0.0, 0.0)
    drop_journals(tmp_path / "00", 0)
    assert noted_cost(tmp_path / "00", "teacher") == 0.5


def test_a_machine_without_the_folder_keeps_no_journal(tmp_path: Path) -> None:
    teacher(tmp_path / "away")(rows(0))
    teacher(tmp_path / "away")(rows(0))
    assert Teacher.asked == ["u0", "u0"]
    assert not (tmp_path / "away").exists()

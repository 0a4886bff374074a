"""Guarded roles: a row that fails is a row with a reason, and what concerns all rows ends the
run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from actors.guarded import GuardedJudge, GuardedTeacher
from actors.judge import Judge as OwnJudge
from actors.roles import Critiques, ImageBatch, Verdicts, WrittenBatch
from actors.teacher import Teacher as OwnTeacher
from rapo.aescot.read_images import ImageReader
from rapo.aescot.rows import ASKED, JUDGED, STOP, WRITTEN
from rapo.config import Config, load_config
from rapo.errors import ImageError, ResourceError

CONFIG = Config()


class Teacher:
    """Raises over one row, and has no critique of another."""

    asked: list[list[str]]

    def __init__(self, config: Config, spent: float) -> None:
        Teacher.asked = []

    def __call__(self, batch: ImageBatch) -> Critiques:
        Teacher.asked.append(batch["uid"])
        for uid in batch["uid"]:
            if uid == "raises":
                raise KeyError("no such key")
            if uid == "torn":
                raise ImageError("the image is truncated", reason="truncated")
        refused = [uid == "refused" for uid in batch["uid"]]
        return {
            "critique": [None if no else data.decode() for no, data in zip(refused, batch["image"], strict=True)],
            "problem": ["will not say" if no else None for no in refused],
            "reason": ["refusal" if no else None for no in refused],
        }


class Spent(Teacher):
    def __call__(self, batch: ImageBatch) -> Critiques:
        raise ResourceError("the budget is spent")


class Judge:
    def __init__(self, config: Config, spent: float) -> None:
        pass

    def __call__(self, batch: WrittenBatch) -> Verdicts:
        if "bad judge" in batch["uid"]:
            raise ValueError("cannot say")
        leaks = ["8" in critique for critique in batch["critique"]]
        return {
            "keep": [not leak for leak in leaks],
            "reason": ["leak" if leak else None for leak in leaks],
            "detail": ["a number" if leak else "" for leak in leaks],
        }


def read(folder: Path, **images: str | None) -> pa.Table:
    """What the reader makes of images with these bytes; None: the file is not there."""
    rows = []
    for place, (uid, content) in enumerate(images.items()):
        path = folder / f"{uid}.jpg"
        if content is not None:
            path.write_text(content)
        rows.append({"place": place, "uid": uid, "dataset": "d", "path": str(path), "score": 0.5, "band": 0})
    return ImageReader(CONFIG.image)(pa.Table.from_pylist(rows, schema=ASKED))


def judge(table: pa.Table) -> dict[str, tuple[bool, str | None, str]]:
    judged = GuardedJudge(Judge, CONFIG)(GuardedTeacher(Teacher, CONFIG)(table))
    assert judged.schema == JUDGED
    return {row["uid"]: (row["keep"], row["reason"], row["detail"]) for row in judged.to_pylist()}


def test_every_row_ends_with_a_verdict_and_a_reason(tmp_path: Path) -> None:
    images = {"good": "fine", "leaks": "an 8", "refused": "x", "gone": None, "raises": "x", "torn": "x"}
    verdicts = judge(read(tmp_path, **images, **{"bad judge": "x"}))
    assert verdicts.pop("gone") == (False, "image", f"image file not found: {tmp_path / 'gone.jpg'}")
    assert verdicts == {
        "good": (True, None, ""),
        "leaks": (False, "leak", "a number"),
        "refused": (False, "refusal", "will not say"),
        "raises": (False, "teacher", "KeyError: 'no such key'"),
        "torn": (False, "image", "the image is truncated"),
        "bad judge": (False, "judge", "ValueError: cannot say"),
    }


def test_the_teacher_sees_usable_rows_only_and_single_rows_only_after_an_error(tmp_path: Path) -> None:
    teacher = GuardedTeacher(Teacher, CONFIG)
    teacher(read(tmp_path, gone=None))
    teacher(read(tmp_path, a="x", gone=None, b="x"))
    assert Teacher.asked == [["a", "b"]]
    teacher(read(tmp_path, a="x", raises="x"))
    assert Teacher.asked[1:] == [["a", "raises"], ["a"], ["raises"]]


def test_a_block_without_any_critique_keeps_its_types(tmp_path: Path) -> None:
    table = GuardedTeacher(Teacher, CONFIG)(read(tmp_path, gone=None, lost=None))
    assert table.schema == WRITTEN


def test_a_role_that_cannot_be_made_is_an_error_of_all_rows_and_not_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAPO_TEST_KEY", raising=False)
    endpoint = ("kind=openai", "model=m", "endpoint.base_url=http://127.0.0.1:9/v1", "endpoint.key_env=RAPO_TEST_KEY")
    config = load_config(None, [f"aescot.{role}.{setting}" for role in ("teacher", "judge") for setting in endpoint])
    written = GuardedTeacher(OwnTeacher, config)(read(tmp_path, a="x", b="x"))
    judged = GuardedJudge(OwnJudge, config)(GuardedTeacher(Teacher, CONFIG)(read(tmp_path, a="x")))
    for table in (written, judged):
        assert set(table["reason"].to_pylist()) == {"stop"}
        assert all("RAPO_TEST_KEY is not set" in problem for problem in table["problem"].to_pylist())


def test_an_error_that_concerns_all_rows_ends_the_run(tmp_path: Path) -> None:
    table = GuardedTeacher(Spent, CONFIG)(read(tmp_path, a="x", b="x"))
    assert table["reason"].to_pylist() == [STOP, STOP]
    judged = GuardedJudge(Judge, CONFIG)(table)
    assert judged["reason"].to_pylist() == [STOP, STOP]
    assert judged["problem"].to_pylist() == ["the budget is spent"] * 2

"""GuardedRole: runs a teacher or a judge on the blocks of Ray Data, so that a row which fails
becomes a row with a reason.

- The role gets the rows without a problem, and of them only what its batch names.
- Where the role raises, its rows are tried one by one, and those that fail get the error as their
  problem.
- A `RapoError` other than an `ImageError` concerns all rows: they get the reason `STOP`, on which
  the driver ends the stage. Raised, it would be one of the losses that Ray Data passes over.
- With a journal, what it has of earlier processes is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypedDict, TypeVar

import pyarrow as pa

from actors.roles import Critiques, JudgeRole, TeacherRole, Verdicts, WrittenBatch
from rapo.aescot.journal import Journal
from rapo.aescot.rows import IMAGE, JUDGE, JUDGED, STOP, TEACHER, WRITTEN
from rapo.chat.types import NOTHING, Usage
from rapo.config import Config
from rapo.errors import ImageError, RapoError

_PROBLEM_CHARACTERS = 500
_Role = TypeVar("_Role")


class _Row(TypedDict, total=False):
    """A row on its way from the reader to the judged table."""

    uid: str
    dataset: str
    score: float
    image: bytes
    problem: str | None
    reason: str | None
    critique: str | None
    keep: bool
    detail: str
    teacher_model: str | None
    teacher_prompt_tokens: int
    teacher_completion_tokens: int
    teacher_cost: float
    judge_model: str | None
    judge_prompt_tokens: int
    judge_completion_tokens: int
    judge_cost: float


class GuardedTeacher:
    """Takes tables of `rapo.aescot.rows.READ`, returns tables of `WRITTEN`."""

    def __init__(
        self,
        role: Callable[[Config, float], TeacherRole],
        config: Config,
        spent: float = 0.0,
        journal: Journal | None = None,
    ) -> None:
        self._role = _opened(role, config, spent)
        self._journal = journal

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        _ask_all(self._ask, rows, TEACHER, self._journal)
        return pa.Table.from_pylist(rows, schema=WRITTEN)

    def _ask(self, rows: Sequence[_Row]) -> None:
        answer: Critiques = self._role(_batch(rows))
        columns = zip(rows, answer["critique"], answer["problem"], answer["reason"], strict=True)
        for row, critique, problem, reason in columns:
            if critique is None:
                _fail(row, problem or "the teacher gave no reason", reason or TEACHER)
            else:
                row["critique"] = critique
        for row, model, used in _used(rows, answer):
            row["teacher_model"], row["teacher_cost"] = model, used.cost
            row["teacher_prompt_tokens"], row["teacher_completion_tokens"] = used.prompt_tokens, used.completion_tokens


class GuardedJudge:
    """Takes tables of `rapo.aescot.rows.WRITTEN`, returns tables of `JUDGED`."""

    def __init__(
        self,
        role: Callable[[Config, float], JudgeRole],
        config: Config,
        spent: float = 0.0,
        journal: Journal | None = None,
    ) -> None:
        self._role = _opened(role, config, spent)
        self._journal = journal

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            if row["problem"] is not None:
                _fail(row, row["problem"], row["reason"])
        _ask_all(self._ask, rows, JUDGE, self._journal)
        return pa.Table.from_pylist(rows, schema=JUDGED)

    def _ask(self, rows: Sequence[_Row]) -> None:
        verdicts: Verdicts = self._role(_batch(rows))
        columns = zip(rows, verdicts["keep"], verdicts["reason"], verdicts["detail"], strict=True)
        for row, keep, reason, detail in columns:
            row["keep"], row["reason"], row["detail"] = keep, reason, detail
        for row, model, used in _used(rows, verdicts):
            row["judge_model"], row["judge_cost"] = model, used.cost
            row["judge_prompt_tokens"], row["judge_completion_tokens"] = used.prompt_tokens, used.completion_tokens


class _NotOpened:
    """Stands for a role that could not be made: each batch gets the error."""

    def __init__(self, error: RapoError) -> None:
        self._error = error

    def __call__(self, batch: WrittenBatch) -> NoReturn:
        raise self._error


def _opened(role: Callable[[Config, float], _Role], config: Config, spent: float) -> _Role | _NotOpened:
    """The role. Ray Data would start a process again whose role cannot be made on its node, for a
    key or a folder that is not there, and would not say why."""
    try:
        return role(config, spent)
    except RapoError as error:
        return _NotOpened(error)


def _used(rows: Sequence[_Row], answer: Critiques | Verdicts) -> Iterator[tuple[_Row, str | None, Usage]]:
    """What the answer of each row used, and who gave it."""
    models: Sequence[str | None] = answer.get("model", [None] * len(rows))
    return zip(rows, models, answer.get("usage", [NOTHING] * len(rows)), strict=True)


def _batch(rows: Sequence[_Row]) -> WrittenBatch:
    return {
        "uid": [row["uid"] for row in rows],
        "dataset": [row["dataset"] for row in rows],
        "score": [row["score"] for row in rows],
        "image": [row["image"] for row in rows],
        "critique": [row.get("critique") or "" for row in rows],
    }


def _ask_all(ask: Callable[[Sequence[_Row]], None], rows: Sequence[Any], reason: str, journal: Journal | None) -> None:
    """Ask for the rows without a problem, but for those whose answers are in the journal."""

    def guarded(left: Sequence[Any]) -> None:
        _guard(ask, left, reason)

    fine = [row for row in rows if row["problem"] is None]
    if journal is None:
        guarded(fine)
    else:
        journal.answered(fine, guarded)


def _guard(ask: Callable[[Sequence[_Row]], None], rows: Sequence[_Row], reason: str) -> None:
    """Ask for the rows together, or one by one where that fails."""
    if not rows:
        return
    try:
        ask(rows)
    except Exception as error:  # noqa: BLE001 - it becomes the reason of its row
        if isinstance(error, RapoError) and not isinstance(error, ImageError):
            for row in rows:
                _fail(row, str(error), STOP)
            return
        if len(rows) > 1:
            for row in rows:
                _guard(ask, [row], reason)
            return
        image = isinstance(error, ImageError)
        words = str(error) if image else f"{type(error).__name__}: {error}"
        _fail(rows[0], words[:_PROBLEM_CHARACTERS], IMAGE if image else reason)


def _fail(row: _Row, problem: str, reason: str | None) -> None:
    row.update({"problem": problem, "reason": reason, "critique": None, "keep": False, "detail": problem})

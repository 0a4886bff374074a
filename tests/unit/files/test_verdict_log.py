"""The log of a judge's verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.files import verdict_log
from cluster.files.verdict_log import VerdictLog
from rapo.chat.types import Usage
from rapo.explanations.grounding_judge import JudgeHistory

ONE, TWO = {"a": (1.0, 0.0), "b": (0.5, 0.5)}, {"c": (0.0, 1.0)}


def test_verdicts_and_their_cost_are_read_back_past_a_torn_row(tmp_path: Path) -> None:
    log = VerdictLog(tmp_path / "new" / "verdicts.jsonl")
    assert log.history() == JudgeHistory()
    log.append(ONE, Usage(10, 1, 0.25))
    with (tmp_path / "new" / "verdicts.jsonl").open("a") as file:
        file.write('{"verdicts": {"x": [1')
    log.append(TWO, Usage(10, 1, 0.5))
    log.append({}, Usage(10, 1, 0.25))
    log.append({}, Usage())
    assert log.history() == JudgeHistory({**TWO, **ONE}, spent=1.0)
    assert len((tmp_path / "new" / "verdicts.jsonl").read_text().splitlines()) == 4, "what costs nothing leaves no row"


def test_the_newest_verdicts_are_kept_where_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_log, "MOST_KNOWN", 2)
    log = VerdictLog(tmp_path / "verdicts.jsonl")
    for verdicts in (ONE, TWO):
        log.append(verdicts, Usage(1, 1, 1.0))
    known = log.history()
    assert set(known.verdicts) == {"c", "a"}
    assert known.spent == 2.0

"""The client of the reward actor, on a plain object: what it writes down of a judge model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import as_ref

from actors.messages import JudgeReceipt, RewardReceipt
from cluster.files.verdict_log import VERDICTS, VerdictLog
from cluster.remote import waiting
from cluster.remote.faults import Fault
from cluster.training import reward_client as module
from cluster.training.reward_client import RewardClient
from rapo.chat.types import Usage
from rapo.config import load_config
from rapo.errors import JudgeError
from rapo.explanations.grounding_judge import JudgeHistory

JUDGED = JudgeReceipt(
    {"k": (1.0, 0.0)}, Usage(10, 1, 0.5), {"unusable": (2, "no vote"), "unanswered": (1, "late")}, None
)
BATCH: Any = [SimpleNamespace(group=f"group {i}", task=SimpleNamespace(image=f"image {i}")) for i in range(4)]
JUDGE = ("kind=openai", "model=m", "endpoint.base_url=http://127.0.0.1:9/v1")


class Launch:
    """Starts nothing; keeps what it is given. Calls are answered by `receipt`."""

    def __init__(self, receipt: RewardReceipt) -> None:
        self.receipt = receipt
        self.histories: list[JudgeHistory] = []
        self.rows, self.parts = False, tuple[Any, ...]()

    def __call__(self, *arguments: object, options: object) -> Any:
        _, history = arguments
        assert isinstance(history, JudgeHistory)
        self.histories.append(history)
        score = SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=self._score))
        future = SimpleNamespace(add_done_callback=lambda call: None)
        hello = SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: future))
        return SimpleNamespace(score=score, hello=hello)

    def _score(self, rows: bool, *parts: Any) -> list[Any]:
        self.rows, self.parts = rows, parts
        return [as_ref(self.receipt), as_ref("share")]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_each(calls: Any, **limits: Any) -> Any:
        yield []
        return calls

    monkeypatch.setattr(module, "wait_each", wait_each)
    monkeypatch.setattr(waiting.ray, "wait", lambda refs, **limits: ([], refs))
    monkeypatch.setattr(module, "Heartbeat", lambda roles, hang_s: SimpleNamespace(watch=lambda waits: waits))


def scored(out: Path, receipt: RewardReceipt, *settings: str) -> tuple[Launch, list[Fault]]:
    faults: list[Fault] = []
    launch = Launch(receipt)
    client = RewardClient(load_config(None, settings), out, launch, faults.append)
    waiting.finish(client.score(BATCH))
    return launch, faults


def with_judge(*more: str) -> list[str]:
    return ["rapo.reward.weight_grounded=1", *(f"rapo.reward.grounded_judge.{item}" for item in (*JUDGE, *more))]


def test_verdicts_are_kept_and_failures_are_faults(tmp_path: Path) -> None:
    launch, faults = scored(tmp_path, RewardReceipt({}, ((),), JUDGED), *with_judge())
    assert launch.parts == (*(f"group {i}" for i in range(4)), *(f"image {i}" for i in range(4)))
    assert [(fault.role, fault.cause) for fault in faults] == [
        ("grounding judge", "2 of 4 groups got no verdict: no vote"),
        ("grounding judge", "1 of 4 groups got no verdict: late"),
    ]
    launch, _ = scored(tmp_path, RewardReceipt({}, ((),), JUDGED), *with_judge())
    assert launch.histories == [JudgeHistory({"k": (1.0, 0.0)}, 0.5)], "the next actor knows what was paid for"


def test_a_judge_that_has_stopped_ends_the_run_where_a_verdict_is_missing(tmp_path: Path) -> None:
    stopped = JudgeReceipt({"k": (1.0, 0.0)}, Usage(10, 1, 0.5), {"stopped": (3, "spent")}, "the budget is spent")
    with pytest.raises(JudgeError, match="the budget is spent"):
        scored(tmp_path, RewardReceipt({}, ((),), stopped), *with_judge())
    assert VerdictLog(tmp_path / VERDICTS).history().verdicts == {"k": (1.0, 0.0)}
    complete = JudgeReceipt({}, Usage(), {}, "the budget is spent")
    assert scored(tmp_path, RewardReceipt({}, ((),), complete), *with_judge())[1] == []


def test_without_a_judge_no_image_travels(tmp_path: Path) -> None:
    launch, faults = scored(tmp_path, RewardReceipt({}, ((),)))
    assert launch.parts == tuple(f"group {i}" for i in range(4))
    assert not faults
    assert not (tmp_path / VERDICTS).exists()

"""Heartbeats: who answers and gets no further is found as well as who does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.remote import heartbeat
from cluster.remote.heartbeat import Heartbeat
from rapo.errors import FaultKind, RoleError


class Actor:
    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.ping = SimpleNamespace(remote=lambda: self)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: Any, timeout: float) -> object:
        if isinstance(ref.answer, Exception):
            raise ref.answer
        return ref.answer

    def wait(refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref.answer != "none yet"], [ref for ref in refs if ref.answer == "none yet"]

    monkeypatch.setattr(heartbeat.ray, "get", get)
    monkeypatch.setattr(heartbeat.ray, "wait", wait)
    monkeypatch.setattr(heartbeat, "log_folder", lambda: "/logs")
    monkeypatch.setattr(heartbeat, "_PERIOD_S", 0.0)


def look(limit_s: float = 60.0, progress_s: float = 300.0, **answers: object) -> None:
    made: Any = {name: Actor(answer) for name, answer in answers.items()}
    watched = Heartbeat(made, limit_s, progress_s)
    watched.check()
    watched.check()


def test_ranks_that_wait_in_a_collective_call_are_named():
    with pytest.raises(RoleError, match=r"rank1 made no progress for 301 s") as raised:
        look(rank0=0.0, rank1=301.0)
    assert raised.value.kind is FaultKind.HUNG


def test_ranks_that_work_or_have_no_work_are_left_alone():
    look(rank0=0.0, rank1=299.0, scorer=None)


def test_a_death_is_left_to_the_calls_that_it_breaks():
    look(rank0=heartbeat.ray.exceptions.ActorDiedError())


def test_no_answer_is_a_hang():
    with pytest.raises(RoleError, match="rank0 did not answer"):
        look(limit_s=-1.0, rank0="none yet")

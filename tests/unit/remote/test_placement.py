"""Room for roles: asked for together, and told what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.remote import placement
from cluster.remote.needs import bundle
from cluster.remote.placement import await_placement, request_placement
from rapo.errors import RoleError


class Group:
    """A placement that has its room after so many seconds of waiting, in pieces that are kept."""

    def __init__(self, ready_after_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle_specs = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
        self.waits: list[float] = []
        self._ready_after_s = ready_after_s
        monkeypatch.setattr(placement.time, "monotonic", lambda: sum(self.waits))

    def wait(self, timeout_seconds: float) -> bool:
        self.waits.append(timeout_seconds)
        return sum(self.waits) >= self._ready_after_s


def test_a_signal_gets_through_while_there_is_no_room(monkeypatch):
    group: Any = Group(100.0, monkeypatch)
    await_placement(group, role="learner ranks", keys="learner.gpus", timeout_s=900.0)
    assert sum(group.waits) == 100.0
    assert max(group.waits) <= 2.0, "no signal is handled during Ray's wait"


def test_no_room_is_told_with_what_was_asked_and_what_there_is(monkeypatch):
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 16.0})
    group: Any = Group(901.0, monkeypatch)
    words = "no room for the learner ranks within 900 s: together they ask for 4 CPU, 2 GPU, and the cluster has 16 CPU, 0 GPU"
    with pytest.raises(RoleError, match=words):
        await_placement(group, role="learner ranks", keys="learner.gpus", timeout_s=900.0)


def test_what_takes_nothing_is_placed_anywhere():
    assert bundle(1.0, 0.0) == {"CPU": 1.0}
    assert request_placement("learner", [bundle(0.0, 0.0)] * 2, {}) is None
    await_placement(None, role="learner ranks", keys="", timeout_s=1.0)

"""The fleet without Ray, looking around often."""

from __future__ import annotations

import pytest

from cluster.remote import drain_notices, waiting
from cluster.rollout import fleet as fleet_module
from cluster.rollout import membership, worker_handle


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_handle.ray, "kill", lambda actor: setattr(actor, "killed", True))
    monkeypatch.setattr(waiting, "log_folder", lambda: "/logs")
    monkeypatch.setattr(fleet_module, "log_folder", lambda: "/logs")
    monkeypatch.setattr(membership, "log_folder", lambda: "/logs")
    monkeypatch.setattr(drain_notices, "_draining", dict)
    monkeypatch.setattr(fleet_module, "_CHECK_S", 0.01)
    monkeypatch.setattr(fleet_module, "_POLL_S", 0.05)

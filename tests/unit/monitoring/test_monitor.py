"""What a run says of itself while it goes on: a trace by role, and a log without images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import as_ref

from actors.messages import GroupReceipt
from cluster.files.jsonl import read_jsonl
from cluster.monitoring.monitor import RunMonitor
from cluster.remote.faults import Fault
from cluster.rollout.listener import WorkerEvent
from cluster.rollout.tasks import RolloutResult, Task
from cluster.rollout.worker_handle import WorkerHandle, WorkerState
from rapo.config import load_config
from rapo.errors import FaultKind
from rapo.records import ImageRecord

QUIET = ("telemetry.tensorboard=false", "telemetry.prometheus=false")
RECEIPT = GroupReceipt(version=1, tokens=20, seconds=0.5, busy_seconds=0.5, worker="rollout-2")
ROW: dict[str, Any] = {
    "step": 3,
    "learner_busy_s": 0.5,
    "seconds": {"rollout": 2.0, "reward": 0.25, "learner": 1.0, "weights": 0.1},
}


def test_a_step_is_traced_by_role_and_logged(tmp_path: Path) -> None:
    record = ImageRecord("pic/1", "s", "train", 0.5, 0.5, (0.0, 1.0), data=b"secret image")
    worker = WorkerHandle(2, as_ref(), None, WorkerState.READY, "node-a", weight_version=3)
    with RunMonitor(load_config(None, [*QUIET, "telemetry.trace_steps=1"]), tmp_path, 2, pytest.fail) as monitor:
        monitor.sampled(RolloutResult(Task(7, record, as_ref(), 2), as_ref(), RECEIPT))
        monitor.worker(WorkerEvent.READY, worker)
        worker.times["load"] = 0.0
        monitor.worker(WorkerEvent.LOADED, worker)
        monitor.fault(Fault("rollout-2", "node-a", FaultKind.DIED, "killed", "replaced"))
        monitor.step(ROW)
        monitor.step({**ROW, "step": 4})
    events = json.loads((tmp_path / "rapo" / "trace.json").read_text())["traceEvents"]
    roles = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    spans = {(roles[event["pid"]], event["name"]): event for event in events if event["ph"] == "X"}
    assert set(spans) == {
        ("rollout-2", "pic/1"),
        ("rollout-2", "load version 3"),
        ("reward actor", "score"),
        ("learner ranks", "step"),
        *(("controller", part) for part in ROW["seconds"]),
    }
    learner, ranks = spans["controller", "learner"], spans["learner ranks", "step"]
    assert ranks["dur"] == 500_000
    assert ranks["ts"] + ranks["dur"] == pytest.approx(learner["ts"] + learner["dur"], abs=2)
    reward = spans["controller", "reward"]
    assert reward["ts"] + reward["dur"] == pytest.approx(learner["ts"], abs=2)
    text = (tmp_path / "rapo" / "log.jsonl").read_text()
    rows: list[dict[str, Any]] = read_jsonl(tmp_path / "rapo" / "log.jsonl")
    assert [row["message"].split(",")[0] for row in rows] == [
        "begins", "ready", "rollout-2 on node-a: died; replaced", "rollout 2.00 s", "rollout 2.00 s", "ends",
    ]  # fmt: skip
    assert len({row["run"] for row in rows}) == 1
    assert (rows[2]["role"], rows[2]["kind"], rows[3]["step"]) == ("rollout-2", "died", 3)
    assert "secret image" not in text


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="no space"),
        RunMonitor(load_config(None, QUIET), tmp_path, 0, pytest.fail),
    ):
        raise OSError("no space")
    last = read_jsonl(tmp_path / "rapo" / "log.jsonl")[-1]
    assert (last["level"], last["message"], last["kind"]) == ("error", "ends: no space", "OSError")

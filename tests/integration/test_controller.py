"""The real loop on roles that sleep: every group is used once, and none is too old."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from actors.messages import RewardReceipt
from actors.reward import RewardScorer
from bench.support.simulated import Latency, LatencyBoard, SimulatedLearner, SimulatedWorker
from cluster.files.jsonl import read_jsonl
from cluster.remote.actors import Launcher
from cluster.remote.faults import Fault
from cluster.training.controller import Controller, TrainingData
from cluster.training.listener import MetricsRow, TrainingListener
from cluster.training.session import Launchers, training_session
from rapo.config import Config, load_config
from rapo.errors import RoleError
from rapo.records import Group, ImageRecord
from tests import small
from tests.limits import PATIENCE_S

pytestmark = pytest.mark.integration

#: A simulated rank has no state that could be written.
SMALL = (*small.SMALL, "rapo.checkpoint_every=1000")
STEPS = 12
LATENCY = Latency(engine_step=0.01, learner_step=0.25, load=0.02, publish=0.02, tokens=20.0)


class RecordingScorer(RewardScorer):
    """Adds the groups that it was given to the metrics."""

    def score(self, rows: bool, *parts: Group | NDArray[np.uint8]) -> tuple[Any, ...]:
        receipt, *shares = super().score(rows, *parts)
        assert isinstance(receipt, RewardReceipt)
        metrics: Any = {**receipt.metrics, "groups": [part.uid for part in parts if isinstance(part, Group)]}
        return RewardReceipt(metrics, receipt.uids), *shares


class Reports(TrainingListener):
    """Keeps notes and faults, and calls `on_step` after each step."""

    def __init__(self, on_step: Callable[[MetricsRow], None] = lambda row: None) -> None:
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        self._on_step = on_step

    def note(self, text: str) -> None:
        self.notes.append(text)

    def fault(self, fault: Fault) -> None:
        self.faults.append(fault)

    def step(self, row: MetricsRow) -> None:
        self._on_step(row)


@pytest.fixture(scope="module")
def board(local_ray: None) -> Iterator[Any]:
    board = LatencyBoard.options(name="latency").remote(LATENCY)  # type: ignore[attr-defined]
    yield board
    ray.kill(board)


def rows_of(
    config: Config, folder: Path, listener: TrainingListener | None = None, controllers: list[Controller] | None = None
) -> list[dict[str, Any]]:
    records = [
        ImageRecord(f"r/{i}", "s", "train", i / 64, i / 64, (0.0, 1.0), data=bytes([i % 256]) * 16) for i in range(64)
    ]
    folder.mkdir()
    launchers = Launchers(Launcher(SimulatedWorker), Launcher(SimulatedLearner), Launcher(RecordingScorer))
    data = TrainingData(records, [])
    with training_session(config, data, folder, folder, listener=listener, launchers=launchers) as controller:
        if controllers is not None:
            controllers.append(controller)
        with contextlib.suppress(Enough):
            controller.run()
    return read_jsonl(folder / "metrics.jsonl")


def configured(eta: int, in_flight: str, steps: int = STEPS) -> Config:
    overrides = (f"rapo.max_staleness={eta}", f"rapo.in_flight={in_flight}", f"rapo.steps={steps}", "rapo.select=last")
    return load_config(None, (*SMALL, *overrides))


def test_every_group_is_used_once_and_none_is_too_old(board: Any, tmp_path: Path) -> None:
    for eta, in_flight in ((0, "finish"), (2, "continue")):
        rows = rows_of(configured(eta, in_flight), tmp_path / f"{eta}")
        assert len(rows) == STEPS
        used = Counter(uid for row in rows for uid in row["groups"])
        assert set(used.values()) == {1}
        assert len(used) == STEPS * 8
        assert max(row["staleness_worst"] for row in rows) <= eta
        if eta == 0:
            expected = [[uid.split("/", 1)[0] for uid in row["groups"]] for row in rows]
            assert expected == [[str(step)] * 8 for step in range(STEPS)]
        else:
            assert any(row["staleness_worst"] > 0 for row in rows)
        assert all(0.0 <= row[f"idle_{side}"] <= 1.0 for row in rows for side in ("rollout", "learner"))


@pytest.mark.long
def test_a_worker_that_does_not_take_over_new_weights_is_named(board: Any, tmp_path: Path) -> None:
    ray.get(board.write.remote(dataclasses.replace(LATENCY, load=60.0)), timeout=PATIENCE_S)
    limits = (
        "rollout.workers=1",
        "rollout.load_timeout_s=1",
        "rollout.generate_timeout_s=4",
        "rapo.select=last",
    )
    try:
        with pytest.raises(RoleError, match=r"rollout worker \d+ on .* did not load its weights within 1 s"):
            rows_of(load_config(None, (*SMALL, *limits)), tmp_path / "hung")
    finally:
        ray.get(board.write.remote(LATENCY), timeout=PATIENCE_S)


class Enough(Exception):
    """Raised by a listener: the test has seen what it waited for."""


def autoscaled(
    tmp_path: Path, name: str, *overrides: str, on_step: Callable[[MetricsRow], None] = lambda row: None
) -> tuple[list[dict[str, Any]], list[str]]:
    reports = Reports(on_step)
    quick = (
        *("rollout.autoscale.enabled=true", "rollout.autoscale.window=2", "rollout.max_workers=4"),
        *("rollout.autoscale.out_cooldown_s=0", "rollout.autoscale.in_cooldown_s=0"),
        *("rapo.max_staleness=1", "rapo.select=last"),
    )
    config = load_config(None, (*SMALL, *quick, *overrides))
    return rows_of(config, tmp_path / name, reports), reports.notes


@pytest.mark.long
def test_the_policy_grows_a_starved_fleet_and_shrinks_an_idle_one(board: Any, tmp_path: Path) -> None:
    def grown(row: MetricsRow) -> None:
        workers = row["workers"]
        assert isinstance(workers, int)
        if workers > 1:
            raise Enough

    ray.get(board.write.remote(dataclasses.replace(LATENCY, engine_step=0.005, learner_step=0.05)), timeout=PATIENCE_S)
    starved = ("rollout.workers=1", "rollout.max_groups=1", "rapo.steps=200")
    try:
        rows, notes = autoscaled(tmp_path, "starved", *starved, on_step=grown)
    finally:
        ray.get(board.write.remote(LATENCY), timeout=PATIENCE_S)
    assert rows[0]["workers"] == 1
    assert max(row["workers"] for row in rows) > 1
    assert any("idle: rollout" in note for note in notes)
    assert {note.split(" (")[0] for note in notes if note.startswith("rollout workers: 1 ->")} <= {
        "rollout workers: 1 -> 2"
    }
    used = Counter(uid for row in rows for uid in row["groups"])
    assert set(used.values()) == {1}
    slow = dataclasses.replace(LATENCY, engine_step=0.002, learner_step=1.0)
    ray.get(board.write.remote(slow), timeout=PATIENCE_S)
    try:
        rows, notes = autoscaled(
            tmp_path, "idle", "rollout.workers=3", "rapo.steps=10", "rollout.autoscale.learner_idle=0.6"
        )
    finally:
        ray.get(board.write.remote(LATENCY), timeout=PATIENCE_S)
    assert [row["workers"] for row in rows][:1] == [3]
    assert rows[-1]["workers"] == 1
    assert "rollout workers: 3 -> 2" in notes[0]


@pytest.mark.parametrize("role", ["rollout", pytest.param("reward", marks=pytest.mark.long)])
def test_a_killed_role_is_replaced_and_every_group_is_used_once(board: Any, tmp_path: Path, role: str) -> None:
    killed: list[int] = []

    def kill(row: MetricsRow) -> None:
        if row["step"] in (3, 6):
            status = controllers[0].status()
            assert status.reward is not None
            pid = status.reward.pid if role == "reward" else status.fleet.workers[0].pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    controllers: list[Controller] = []
    reports = Reports(kill)
    steps = 24  # so many that the second death is missed before the end
    rows = rows_of(configured(1, "finish", steps), tmp_path / "run", reports, controllers)
    assert len(set(killed)) == 2
    assert len(rows) == steps
    used = Counter(uid for row in rows for uid in row["groups"])
    assert len(used) == steps * 8
    assert set(used.values()) == {1}
    assert [fault.kind for fault in reports.faults] == ["died", "died"]


@pytest.mark.long
def test_a_stopped_worker_is_replaced(board: Any, tmp_path: Path) -> None:
    stopped: list[int] = []

    def stop(row: MetricsRow) -> None:
        if row["step"] == 3:
            stopped.append(controllers[0].status().fleet.workers[0].pid)
            os.kill(stopped[0], signal.SIGSTOP)

    controllers: list[Controller] = []
    reports = Reports(stop)
    limits = ("rollout.hang_timeout_s=5", "rollout.heartbeat_s=0.5", "rollout.workers=1")
    overrides = ("rapo.max_staleness=1", f"rapo.steps={STEPS}", "rapo.select=last")
    config = load_config(None, (*SMALL, *overrides, *limits))
    rows = rows_of(config, tmp_path / "run", reports, controllers)
    assert len(rows) == STEPS
    assert [fault.kind for fault in reports.faults] == ["hung"]
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{stopped[0]}").exists():  # it must not go on holding memory
        assert time.monotonic() < deadline
        time.sleep(0.5)

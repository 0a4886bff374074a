"""Telemetry: every backend gets the figures, and none can end a run."""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from actors.messages import GroupReceipt
from cluster.files.run_state import RunState
from cluster.monitoring.telemetry import Telemetry, TensorBoardBackend, fleet_counts, open_telemetry, scalars
from rapo.config import load_config

ROW = {"step": 3, "loss": 0.25, "invalid/no_think": 0.1, "seconds": {"rollout": 2.0}, "nan": float("nan"), "text": "x",
       "flag": True, "srcc": None}  # fmt: skip
STATE = {"step": 3, "fleet": {"wanted": 2, "workers": [{"name": "a", "state": "ready"}, {"name": "b", "state": "gone"}]},
         "window": {"ready": 4}}  # fmt: skip


class Recorder:
    def __init__(self, name: str = "recorder", fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.calls: list[tuple[Any, ...]] = []

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails:
            raise OSError("no space")

    def scalars(self, step: int, values: Any) -> None:
        self._note("scalars", step, dict(values))

    def state(self, state: RunState) -> None:
        self._note("state", fleet_counts(state))

    def fault(self, role: str, kind: str) -> None:
        self._note("fault", role, kind)

    def groups(self, receipts: Any) -> None:
        self._note("groups", len(receipts))

    def close(self) -> None:
        self._note("close")


RECEIPT = GroupReceipt(version=1, tokens=5, seconds=1.0, busy_seconds=1.0, worker="rollout-0")


def test_only_finite_numbers_are_metrics() -> None:
    assert dict(scalars(ROW)) == {"loss": 0.25, "invalid/no_think": 0.1, "seconds/rollout": 2.0}
    assert dict(scalars({"step": 0, "validation": {"srcc": 0.5, "step": 9}})) == {
        "validation/srcc": 0.5,
        "validation/step": 9.0,
    }


def test_a_backend_that_fails_is_named_once_and_the_others_go_on() -> None:
    good, bad = Recorder(), Recorder("bad one", fails=True)
    said: list[str] = []
    telemetry = Telemetry([bad, good], said.append)
    telemetry.step(ROW)
    telemetry.fleet(STATE)
    telemetry.fault({"role": "learner rank 1", "kind": "death"})
    telemetry.groups([RECEIPT])
    telemetry.close()
    assert len(bad.calls) == 1
    assert said == ["bad one gets no more metrics of this run: OSError: no space"]
    assert good.calls == [
        ("scalars", 3, {"loss": 0.25, "invalid/no_think": 0.1, "seconds/rollout": 2.0}),
        ("state", {"ready": 1, "gone": 1, "wanted": 2}),
        ("fault", "learner rank 1", "death"),
        ("groups", 1),
        ("close",),
    ]


def test_tensorboard_holds_the_values(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    backend = TensorBoardBackend(tmp_path, 0)
    telemetry = Telemetry([backend], pytest.fail)
    telemetry.step(ROW)
    telemetry.fleet(STATE)
    telemetry.groups([RECEIPT])
    telemetry.close()
    (path,) = tmp_path.glob("events.*")
    data = path.read_bytes()
    found: dict[str, tuple[int, float]] = {}
    while data:  # a record: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert found["loss"] == (3, 0.25)
    assert found["seconds/rollout"] == (3, 2.0)
    assert found["fleet/ready"] == (3, 1.0)
    assert "group_seconds" in found


def _fake_wandb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {"logged": []}
    run = types.SimpleNamespace(
        log=lambda values, step: seen["logged"].append((step, values)), finish=lambda: seen.update(finished=True)
    )
    module: Any = types.ModuleType("wandb")
    module.Settings = lambda **options: options
    module.init = lambda **options: seen.update(options) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def test_wandb_is_offline_unless_it_is_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _fake_wandb(monkeypatch)
    only = ["telemetry.tensorboard=false", "telemetry.prometheus=false", "telemetry.wandb_project=mine"]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    telemetry = open_telemetry(load_config(None, only), tmp_path, warn=pytest.fail)
    telemetry.step(ROW)
    telemetry.close()
    assert (seen["project"], seen["mode"], seen["resume"]) == ("mine", "offline", "allow")
    assert seen["logged"] == [(3, {"loss": 0.25, "invalid/no_think": 0.1, "seconds/rollout": 2.0})]
    assert seen["finished"]
    first = seen["id"]
    open_telemetry(load_config(None, [*only, "telemetry.wandb_mode=online"]), tmp_path, warn=pytest.fail)
    assert (seen["mode"], seen["id"]) == ("online", first)
    monkeypatch.setenv("WANDB_MODE", "offline")
    open_telemetry(load_config(None, [*only, "telemetry.wandb_mode=online"]), tmp_path, warn=pytest.fail)
    assert seen["mode"] == "offline"


def test_a_backend_that_cannot_start_is_only_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    config = load_config(None, ["telemetry.prometheus=false", "telemetry.wandb_project=mine"])
    (tmp_path / "rapo").write_text("in the way")
    telemetry = open_telemetry(config, tmp_path, warn=said.append)
    telemetry.step(ROW)
    assert [line.split(" gets")[0] for line in said] == ["TensorBoard", "W&B"]


def test_a_missing_wandb_is_said_before_anything_starts() -> None:
    from cluster.cli.check import problems

    found = problems(load_config(None, ["telemetry.wandb_project=mine"]), ["rapo"])
    assert any("pip install 'rapo[wandb]'" in line for line in found)

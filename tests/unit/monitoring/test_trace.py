"""Traces: what overlaps gets lanes, and only the first steps are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.monitoring.trace import Span, Trace, chrome_trace


def _events(path: Path) -> list[dict]:
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]


def test_roles_are_processes_and_what_overlaps_lies_in_lanes() -> None:
    spans = [
        Span("rollout worker 0", "a", 10.0, 2.0, {"step": 1}),
        Span("rollout worker 0", "c", 12.0, 1.0, {}),
        Span("rollout worker 0", "b", 11.0, 2.0, {}),
        Span("controller", "rollout", 10.0, 3.0, {}),
    ]
    events: list[dict[str, Any]] = chrome_trace(spans)["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {1: "rollout worker 0", 2: "controller"}
    placed = {event["name"]: (event["pid"], event["tid"]) for event in events if event["ph"] == "X"}
    assert placed == {"a": (1, 0), "b": (1, 1), "c": (1, 0), "rollout": (2, 0)}
    (first,) = [event for event in events if event["name"] == "a"]
    assert (first["ts"], first["dur"], first["args"]) == (10_000_000, 2_000_000, {"step": 1})


def test_only_the_first_steps_are_written(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json", 2)
    for step in range(4):
        trace.ended("learner rank 0", f"step {step}", 0.5)
        trace.end_step()
    assert [event["name"] for event in _events(tmp_path / "trace.json")] == ["step 0", "step 1"]
    assert not trace.active


def test_no_steps_leave_no_file(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json", 0)
    trace.ended("a", "b", 1.0)
    trace.end_step()
    assert not (tmp_path / "trace.json").exists()

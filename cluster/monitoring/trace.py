"""Trace: the work of each role over the first steps of a start, in Chrome's JSON format, for
ui.perfetto.dev or chrome://tracing.

- A role is a process of the trace. Spans of a role that overlap (the groups on one worker) are in
  lanes.
- All times are of the driver's clock. A duration that a role reports ends when the driver hears of
  it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cluster.files.atomic import write_json

#: A trace is for a few steps. So many spans take some 100 MB in the viewer.
_MOST_SPANS = 200_000


@dataclass(frozen=True, slots=True)
class Span:
    """`role` did `name` for `seconds` from `start` (Unix time); `facts` are plain values."""

    role: str
    name: str
    start: float
    seconds: float
    facts: dict[str, object]


class ChromeTrace(TypedDict):
    """The file of a trace."""

    traceEvents: list[dict[str, object]]
    displayTimeUnit: str


class Trace:
    """Collects the spans of `steps` steps and writes them to `path`. After these steps, and with
    `steps` 0, calls do nothing."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        self._left = steps
        self._spans: list[Span] = []

    @property
    def active(self) -> bool:
        return self._left > 0

    def span(self, role: str, name: str, start: float, seconds: float, **facts: object) -> None:
        """Note what began at `start` (Unix time) and took `seconds`."""
        if self.active and len(self._spans) < _MOST_SPANS:
            self._spans.append(Span(role, name, start, max(0.0, seconds), facts))

    def ended(self, role: str, name: str, seconds: float, **facts: object) -> None:
        """Note what ends now and took `seconds`."""
        if self.active:
            self.span(role, name, time.time() - seconds, seconds, **facts)

    def end_step(self) -> None:
        """Write the spans so far, at the end of a step. After the last step nothing more is
        collected."""
        if not self.active:
            return
        self._left -= 1
        write_json(self._path, chrome_trace(self._spans))
        if not self.active:
            self._spans = []


def chrome_trace(spans: Sequence[Span]) -> ChromeTrace:
    """Complete ("X") events in microseconds, and the names of roles as metadata. Roles are in order
    of first appearance."""
    events: list[dict[str, object]] = []
    lanes: dict[str, list[float]] = {}
    for span in spans:
        if span.role not in lanes:
            lanes[span.role] = []
            of_process = {"ph": "M", "pid": len(lanes), "tid": 0}
            events.append({**of_process, "name": "process_name", "args": {"name": span.role}})
            events.append({**of_process, "name": "process_sort_index", "args": {"sort_index": len(lanes)}})
    pids = {role: number for number, role in enumerate(lanes, 1)}
    for span in sorted(spans, key=lambda one: one.start):
        lane = _free_lane(lanes[span.role], span)
        events.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": span.role,
                "ts": round(span.start * 1e6),
                "dur": round(span.seconds * 1e6),
                "pid": pids[span.role],
                "tid": lane,
                "args": span.facts,
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _free_lane(ends: list[float], span: Span) -> int:
    """The first lane that is free when the span starts."""
    for lane, end in enumerate(ends):
        if end <= span.start:
            ends[lane] = span.start + span.seconds
            return lane
    ends.append(span.start + span.seconds)
    return len(ends) - 1

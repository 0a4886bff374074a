"""What a live run says of itself: `rapo/state.json` for `rapo status`, `rapo/fleet.jsonl` of who
joined and left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.files.atomic import write_json
from cluster.files.jsonl import append_jsonl
from cluster.rollout.fleet import Journal
from cluster.rollout.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from cluster.training.controller import Controller

STATE, FLEET = "state.json", "fleet.jsonl"

#: The state is for people to look at: more often than this it is not written.
_PERIOD_S = 1.0


class RunStateWriter:
    """Writes the state of the controller that it follows, whole or not at all, and tells `told` of
    it. As a context manager it ends with the run: what has ended has no live state."""

    def __init__(self, out: Path, told: Callable[[dict[str, Any]], None] = lambda state: None) -> None:
        self._path = out / STATE
        self._told = told
        self._controller: Controller | None = None
        self._written = 0.0

    def follow(self, controller: Controller) -> None:
        self._controller = controller
        self.write()

    @property
    def step(self) -> int:
        """Steps done."""
        return self._controller.step if self._controller is not None else 0

    def write(self) -> None:
        now = time.monotonic()
        if self._controller is None or now - self._written < _PERIOD_S:
            return
        self._written = now
        state = {**self._controller.status(), "updated": time.time(), "pid": os.getpid()}
        write_json(self._path, state)
        self._told(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def journal_to(out: Path, then: Callable[[], None], also: Journal = lambda event, member: None) -> Journal:
    """A `Journal` that appends to `fleet.jsonl`, with the seconds that each part of joining
    took."""

    def journal(event: str, member: WorkerHandle) -> None:
        also(event, member)
        if event == "loaded":  # every worker at every step
            return
        row = {"time": time.time(), "event": event, "worker": f"rollout-{member.number}", "node": member.node}
        if event == "routed":
            row["seconds"] = member.joining()
        append_jsonl(out / FLEET, row)
        then()

    return journal

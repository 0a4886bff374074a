"""RunStateWriter: `rapo/state.json`, what a live run shows of itself to `rapo status`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cluster.files.atomic import write_json

if TYPE_CHECKING:
    from cluster.training.controller import Controller

STATE = "state.json"

#: The state is for people to look at: it is not written more often than this.
_PERIOD_S = 1.0


class RunStateWriter:
    """Writes the status of the controller that it follows, whole or not at all, and hands it to
    `written`. As a context manager it removes the file at the end: a run that has ended has no live
    state."""

    def __init__(self, out: Path, written: Callable[[Mapping[str, object]], None] = lambda state: None) -> None:
        self._path = out / STATE
        self._written = written
        self._controller: Controller | None = None
        self._written_at = 0.0

    def follow(self, controller: Controller) -> None:
        self._controller = controller
        self.write()

    @property
    def step(self) -> int:
        """Steps done."""
        return self._controller.step if self._controller is not None else 0

    def write(self) -> None:
        now = time.monotonic()
        if self._controller is None or now - self._written_at < _PERIOD_S:
            return
        self._written_at = now
        state = {**asdict(self._controller.status()), "updated": time.time(), "pid": os.getpid()}
        write_json(self._path, state)
        self._written(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)

"""Meter: the driver's CPU time at the end of each step of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.remote.faults import Fault
from cluster.training.listener import MetricsRow, TrainingListener

if TYPE_CHECKING:
    import cProfile


class Meter(TrainingListener):
    """Keeps each step's row, and the times of thread, process and clock at its end. `after_third`
    is called after the third step; `profile` begins after the first."""

    def __init__(self, after_third: Callable[[], object] | None = None) -> None:
        self.marks = [self._now()]
        self.rows: list[dict[str, Any]] = []
        self.faults = 0
        self.profile: cProfile.Profile | None = None
        self._after_third = after_third

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.thread_time(), time.process_time(), time.perf_counter()

    def fault(self, fault: Fault) -> None:
        self.faults += 1

    def step(self, row: MetricsRow) -> None:
        self.rows.append(dict(row))
        self.marks.append(self._now())
        if len(self.rows) == 1 and self.profile is not None:
            self.profile.enable()
        if len(self.rows) == 3 and self._after_third is not None:
            self._after_third()

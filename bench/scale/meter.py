"""Meter: the driver's CPU time at the end of each step of a run, and by thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.remote.faults import Fault
from cluster.training.listener import MetricsRow, TrainingListener

if TYPE_CHECKING:
    import cProfile


class Meter(TrainingListener):
    """Keeps each step's row, and the times of thread, process and clock at its end. `after_second`
    is called after the second step; `profile` begins after the first."""

    def __init__(self, after_second: Callable[[], object] | None = None) -> None:
        self.marks = [self._now()]
        self._threads = [thread_seconds()]
        self.rows: list[dict[str, Any]] = []
        self.faults = 0
        self.profile: cProfile.Profile | None = None
        self._after_second = after_second

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.thread_time(), time.process_time(), time.perf_counter()

    def fault(self, fault: Fault) -> None:
        self.faults += 1

    def step(self, row: MetricsRow) -> None:
        self.rows.append(dict(row))
        self.marks.append(self._now())
        self._threads.append(thread_seconds())
        if len(self.rows) == 1 and self.profile is not None:
            self.profile.enable()
        if len(self.rows) == 2 and self._after_second is not None:
            self._after_second()

    def thread_seconds(self) -> Mapping[str, float]:
        """CPU seconds after the first step by the threads' names, of those that live still."""
        found: dict[str, float] = {}
        for (thread, name), seconds in self._threads[-1].items():
            found[name] = found.get(name, 0.0) + seconds - self._threads[1].get((thread, name), 0.0)
        return found


def thread_seconds() -> Mapping[tuple[int, str], float]:
    """CPU seconds of each thread of this process, by its number and its name."""
    found = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        try:
            head, _, tail = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        user, system = tail.split()[11:13]
        found[int(stat.parent.name), head.partition("(")[2]] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found

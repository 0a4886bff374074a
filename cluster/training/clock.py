"""StepClock: the seconds of each part of a step."""

from __future__ import annotations

import time


class StepClock:
    """Seconds between laps, by name; laps of one name add up."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the part `name`, which began with the lap before."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds of all laps; never 0."""
        return max(1e-9, sum(self.laps.values()))

"""Pace: spaces requests so that no minute holds more than a limit.

- Amounts are admitted in the order in which they ask, evenly and without bursts, so that any window
  of a minute holds at most the limit and one amount more.
- An amount that was estimated too high is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Pace:
    """Admits `per_minute` units a minute; None: no limit. Not thread-safe.

    `clock` gives seconds, of any origin.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = monotonic) -> None:
        self._seconds_per_unit = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._free_at = clock()

    def take(self, amount: float = 1.0) -> float:
        """Take `amount` units; the seconds to wait before they are used."""
        now = self._clock()
        start = max(now, self._free_at)
        self._free_at = start + amount * self._seconds_per_unit
        return start - now

    def give_back(self, amount: float) -> None:
        """Give back units that were taken and not used; a negative amount takes more."""
        self._free_at -= amount * self._seconds_per_unit

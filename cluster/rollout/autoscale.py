"""Autoscaler: decides the number of rollout workers from the idle shares of both sides.

- The learner waits for groups: add workers. The workers wait for the learner: give one back.
- The idle shares are averaged over some steps.
- After each change there is a cool-down, because a worker takes as long to join as an engine takes
  to start.
"""

from __future__ import annotations

import math
from collections import deque

from rapo.config import RolloutAutoscaleConfig


class Autoscaler:
    """`decide` after every step; between `min_workers` and `most`."""

    def __init__(self, settings: RolloutAutoscaleConfig, most: int) -> None:
        self._settings = settings
        self._most = most
        self._seen: deque[tuple[float, float]] = deque(maxlen=settings.window)
        self._changed = -math.inf

    def decide(self, now: float, workers: int, ready: int, idle_rollout: float, idle_learner: float) -> int:
        """The number of workers to have. `workers` are wanted now, of which `ready` work; `now` is
        in seconds, idle shares are in [0, 1].

        It grows to what would have had the groups ready in time, at most to twice the number. It
        shrinks by one at a time.
        """
        settings = self._settings
        if ready < workers:  # some have not joined yet, so the shares say nothing about their number
            self._seen.clear()
            return workers
        self._seen.append((idle_rollout, idle_learner))
        if len(self._seen) < settings.window:
            return workers
        rollout, learner = (sum(column) / len(self._seen) for column in zip(*self._seen, strict=True))
        wanted = workers
        since = now - self._changed
        starved, idle = learner > settings.learner_idle, rollout > settings.rollout_idle
        if starved and not idle and since >= settings.out_cooldown_s:
            # Without waiting for groups a step would take (1 - learner) of its time.
            wanted = min(2 * workers, math.ceil(workers * (1.0 - rollout) / max(1.0 - learner, 0.1)))
        elif idle and not starved and since >= settings.in_cooldown_s:
            wanted = workers - 1
        wanted = max(settings.min_workers, min(self._most, wanted))
        if wanted != workers:
            self._changed = now
            self._seen.clear()
        return wanted

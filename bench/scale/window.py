"""The loop without Ray: what the staleness window does to steps, by times of groups, learner and
weights.

    python -m bench.scale.window

The window is the real one. Groups take a place of a worker for their time, workers load one version
at a time, the newest there is, and the learner takes its time for each step. Seconds are those of
`python -m bench.scale` at 512 workers.
"""

from __future__ import annotations

import heapq
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import count, pairwise

import numpy as np
import ray

from bench.support import record
from cluster.training.staleness import ReadyGroup, StalenessWindow


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a group on average, its log normal with sd `spread`; of the learner for a step; of
    a version to all workers. `batch` groups make a step, `places` are sampled at a time, and steps
    may lie `ahead` apart."""

    group: float
    learner: float
    delivery: float
    batch: int
    places: int
    ahead: int = 1
    spread: float = 0.0
    steps: int = 60


class WindowSimulation:
    """One run of the loop. `ends` are the times at which steps ended."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._rng = np.random.default_rng(0)
        self._window = StalenessWindow(times.batch, times.ahead, times.steps)
        self._events: list[tuple[float, int, str, int, int]] = []
        self._order = count()
        self._queue: list[tuple[int, int]] = []  # tickets, with the oldest version that may sample each
        self._free, self._held, self._loading, self._step = times.places, 0, 0, 0
        self._learning = False
        self.ends: list[float] = []

    @property
    def dropped(self) -> float:
        """Groups that came too late to be used, over those that were."""
        return self._window.dropped / self._window.used

    @property
    def step_seconds(self) -> float:
        """The mean of a step, without the first third of them and the last."""
        steps = [b - a for a, b in pairwise(self.ends)]
        return statistics.mean(steps[len(steps) // 3 : -1])

    def run(self) -> WindowSimulation:
        self._work(0.0)
        while self._events:
            now, _, what, number, version = heapq.heappop(self._events)
            if what == "group":
                self._free += 1
                self._window.put(ReadyGroup(number, ray.ObjectRef.nil(), version, "s"))
            elif what == "held":
                self._held = version
            else:
                self._learning = False
                self._step += 1
                self.ends.append(now)
            self._work(now)
        return self

    def _work(self, now: float) -> None:
        """Begin all that can begin: a load, a step, groups."""
        times = self._times
        if self._held == self._loading < self._step:
            self._loading = self._step
            self._later(now + times.delivery, "held", 0, self._step)
        if not self._learning and self._step < times.steps:
            self._window.drop_stale(self._step)
            for ticket in self._window.admit(self._step):
                self._queue.append((ticket, max(ticket // times.batch, self._step) - times.ahead))
            if self._window.take(self._step) is not None:
                self._learning = True
                self._later(now + times.learner, "step", 0, 0)
        kept = []
        for ticket, oldest in self._queue:
            if not self._free or self._held < oldest:
                kept.append((ticket, oldest))
                continue
            self._free -= 1
            seconds = times.group * self._rng.lognormal(-(times.spread**2) / 2, times.spread)
            self._later(now + seconds, "group", ticket, self._held)
        self._queue = kept

    def _later(self, when: float, what: str, number: int, version: int) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, number, version))


def main() -> None:
    plain = Times(13.7, 6.8, 0.2, batch=512, places=512, spread=0.3)
    cases = {
        "as in bench.scale: all groups of a step at once": plain,
        "groups that take equally long": replace(plain, spread=0.0),
        "four groups one after the other in each place": replace(plain, group=13.7 / 4, places=128),
        "a learner that is slower than the sampler": replace(plain, learner=20.0),
        "rapo.max_staleness = 2": replace(plain, ahead=2),
    }
    rows = []
    for name, times in cases.items():
        done = WindowSimulation(times).run()
        rows.append({"case": name, "dropped, %": round(100 * done.dropped, 1), "step, s": round(done.step_seconds, 1)})
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()

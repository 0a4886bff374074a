"""The bound on a step against the staleness window itself, in a simulation without Ray."""

from __future__ import annotations

import heapq
from itertools import count, pairwise

import pytest
from fakes import as_ref

from cluster.training.staleness import ReadyGroup, StalenessWindow
from rapo.plan.cards import CARDS
from rapo.plan.estimate import Estimate
from rapo.plan.model_shape import ModelShape
from rapo.plan.network import Network
from rapo.plan.traffic import Part

_BATCH, _SLOTS, _STEPS = 64, 16, 200
_SHAPE = ModelShape(64, 128, 2, 4, 4, 384, False, 64, 128, 2, 14, 2)


class Simulation:
    """The loop on `_SLOTS` places for groups of `group` seconds. `learner` seconds after its groups
    are taken a step ends. Workers load the newest version in `delivery` seconds, one at a time."""

    def __init__(self, group: float, learner: float, delivery: float, ahead: int) -> None:
        self._group, self._learner, self._delivery, self._ahead = group, learner, delivery, ahead
        self._window = StalenessWindow(_BATCH, ahead, _STEPS)
        self._events: list[tuple[float, int, str, int, int]] = []
        self._order = count()
        self._queue: list[tuple[int, int]] = []
        self._free, self._held, self._loading, self._step = _SLOTS, 0, 0, 0
        self._learning = False
        self.ends: list[float] = []

    def run(self) -> list[float]:
        """The seconds of each step."""
        self._work(0.0)
        while self._events:
            now, _, what, first, version = heapq.heappop(self._events)
            if what == "group":
                self._free += 1
                self._window.put(ReadyGroup(first, as_ref(), version, "s"))
            elif what == "held":
                self._held = first
            else:
                self._learning = False
                self._step += 1
                self.ends.append(now)
            self._work(now)
        return [b - a for a, b in pairwise(self.ends)]

    def _work(self, now: float) -> None:
        if self._held == self._loading < self._step:
            self._loading = self._step
            self._later(now + self._delivery, "held", self._step)
        if not self._learning and self._step < _STEPS:
            self._window.drop_stale(self._step)
            for ticket in self._window.admit(self._step):
                self._queue.append((ticket, max(ticket // _BATCH, self._step) - self._ahead))
            if self._window.take(self._step) is not None:
                self._learning = True
                self._later(now + self._learner, "step", 0)
        for entry in list(self._queue):
            if self._free and self._held >= entry[1]:
                self._queue.remove(entry)
                self._free -= 1
                self._later(now + self._group, "group", entry[0], self._held)

    def _later(self, when: float, what: str, first: int, version: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, first, version))


@pytest.mark.parametrize(
    ("group", "learner", "delivery", "ahead", "bound"),
    [
        (1.0, 20.0, 3.0, 1, "learner, weights and snapshot"),
        (5.0, 3.0, 1.0, 1, "rollout"),
        (5.0, 3.0, 1.0, 2, "rollout"),
        (4.0, 6.0, 18.0, 1, "a version's round"),
        (2.0, 3.0, 4.0, 0, "a version's round"),
        (1.0, 3.0, 20.0, 1, "delivery"),
        (1.0, 3.0, 20.0, 2, "delivery"),
        (1.0, 10.0, 200.0, 3, "delivery"),
    ],
)
def test_a_step_takes_what_the_plan_says(group, learner, delivery, ahead, bound):
    rollout = group * _BATCH / _SLOTS
    seconds = {"rollout": rollout, "learner": learner, "weights": 0.0, "delivery": delivery, "snapshot": 0.0}
    parts = [Part(name, value, "") for name, value in seconds.items()]
    found = Estimate(_SHAPE, CARDS["H100-80"], Network(), 1, [], 0, {}, {}, parts, ahead)
    assert found.step_bound == bound
    steps = Simulation(group, learner, delivery, ahead).run()
    settled = steps[len(steps) // 3 : -1]
    assert sum(settled) / len(settled) == pytest.approx(found.step_seconds, rel=0.05)

"""Ranks that take turns with engines, as plain objects: neither side works in the other's turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import as_ref
from test_recovery import Group, died, no_ray

from cluster.learner.colocated import ColocatedLearners
from cluster.remote.waiting import Waiting, finish
from cluster.remote.weight_source import Receivers, WeightVersion
from rapo.config import load_config
from rapo.errors import RoleError

__all__ = ["no_ray"]


class Engines:
    """Engines that write down their turns; `error` is raised by the next `sleep`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.asleep = True
        self.waking_seconds = 0.0
        self.error: Exception | None = None

    def sleep(self) -> None:
        if self.error is not None:
            raise self.error
        self.asleep = True
        self.log.append("sleep")

    def wake(self) -> None:
        self.asleep = False
        self.waking_seconds += 2.0
        self.log.append("wake")


class Ranks(Group):
    """A group that writes down what it does, and must not have the GPUs while engines are awake."""

    def __init__(self, plan: dict[int, Any], engines: Engines) -> None:
        super().__init__(plan)
        self._engines = engines
        self._work("made")

    def _work(self, what: str) -> None:
        assert self._engines.asleep, f"{what} in the engines' turn"
        self._engines.log.append(what)

    def step(self, shares: Any, images: Any) -> Waiting[dict[str, float]]:
        self._work("step")
        return (yield from super().step(shares, images))

    def park(self) -> Waiting[None]:
        self._work("park")
        yield from self._wait("park")

    def states(self) -> list[tuple[Any, Any]]:
        self._work("copy")
        return super().states()

    def publish(self, version: int, receivers: Receivers | None = None, *, beside: bool = True) -> WeightVersion:
        self._work("publish")
        return super().publish(version, receivers, beside=beside)


def colocated(plan: dict[int, Any], *overrides: str) -> tuple[ColocatedLearners, Engines, list[str], list[Any]]:
    Group.made = 0
    log: list[str] = []
    engines, faults = Engines(log), list[Any]()

    def make() -> Any:
        return Ranks(plan, engines)

    learners = ColocatedLearners(load_config(None, overrides), make, engines, faults.append)
    finish(learners.ready(learners.start(Path("model"))))
    finish(learners.hand_over())
    return learners, engines, log, faults


def step(learners: ColocatedLearners, name: str) -> dict[str, float]:
    return finish(learners.step([as_ref(name)], [{}]))


def test_the_sides_take_turns_and_a_turn_changes_only_when_the_other_side_is_needed():
    learners, _, log, _ = colocated({}, "learner.snapshot_every=9")
    assert log == ["made", "park", "wake"]
    log.clear()
    for number in (1, 2):
        figures = step(learners, "a")
        finish(learners.published(learners.publish(number)))
        finish(learners.hand_over())
        finish(learners.hand_over())
        assert figures["sleep_s"] >= 0.0
        assert figures["wake_s"] >= 2.0, "of the turn before"
        assert figures["wake_s"] < 4.0
    assert log == ["sleep", "step", "publish", "park", "wake"] * 2


@pytest.mark.parametrize("where", ["step", "published", "park", "save_model"])
def test_ranks_that_die_are_made_anew_in_their_own_turn(where):
    learners, _, log, faults = colocated({0: {where: [*([None] if where == "park" else []), died()]}})
    step(learners, "a")
    weights = finish(learners.published(learners.publish(1)))
    finish(learners.hand_over())
    finish(learners.save_model(Path("best"), Path("model"), weights))
    finish(learners.hand_over())
    step(learners, "b")
    assert [fault.kind for fault in faults] == ["died"]
    assert log.count("made") == 2
    group: Any = learners._group
    assert group.applied == ["a", "b"]


def test_a_resumed_run_publishes_in_the_ranks_turn():
    learners, _, log, _ = colocated({})  # the engines have just started
    log.clear()
    finish(learners.published(learners.publish(0)))
    finish(learners.hand_over())
    assert log == ["sleep", "publish", "park", "wake"]


def test_a_version_that_workers_lost_is_published_in_the_ranks_turn():
    learners, _, log, _ = colocated({})
    step(learners, "a")
    finish(learners.published(learners.publish(1)))
    finish(learners.hand_over())
    log.clear()
    assert finish(learners.republish(1)).version == 1
    finish(learners.hand_over())
    assert log == ["sleep", "publish", "park", "wake"]


def test_a_state_is_copied_in_the_ranks_turn_and_written_in_any():
    learners, engines, log, _ = colocated({}, "learner.snapshot_every=9")
    step(learners, "a")
    finish(learners.hand_over())
    log.clear()
    learners.prepare_to_save()
    finish(learners.hand_over())
    saved: Any = finish(learners.save_state(Path("state"), beside=True))
    assert saved["learner"] == [["a"]]
    learners.prepare_to_save()
    assert log == ["sleep", "copy", "park", "wake"], "once is enough"
    assert not engines.asleep


def test_an_error_of_the_fleet_is_no_failure_of_the_ranks():
    learners, engines, log, faults = colocated({0: {"save_model": [died()]}})
    step(learners, "a")
    weights = learners.publish(1)
    finish(learners.hand_over())
    engines.error = RoleError("the cluster had no room for a rollout worker")
    with pytest.raises(RoleError, match="no room for a rollout worker"):
        finish(learners.save_model(Path("best"), Path("model"), weights))
    assert log.count("made") == 1
    assert [fault.kind for fault in faults] == ["died"], "the ranks' own"

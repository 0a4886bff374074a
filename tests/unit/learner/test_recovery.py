"""Learners that are rebuilt, on groups that are plain objects: what is repeated, and what is
not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from fakes import as_ref

from cluster.learner import recovery, snapshot
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote import waiting
from cluster.remote.waiting import Waiting, finish
from cluster.remote.weight_source import Receivers, WeightVersion
from rapo.config import load_config
from rapo.errors import FaultKind, ResourceError, RoleError

#: The receipt of a snapshot that is still being made.
PENDING: Any = as_ref("pending")


class Group:
    """A learner whose weights are the list of the steps applied to them. `plan` says what fails: of
    `made` in all."""

    made = 0

    def __init__(self, plan: dict[int, dict[str, list[Exception | None]]]) -> None:
        self.number = Group.made
        Group.made += 1
        self.applied: list[Any] = []
        self.plan = plan.get(self.number, {})
        self.ranks: list[Any] = []
        self.closed = False

    def _maybe_fail(self, what: str) -> None:
        planned = self.plan.get(what, [])
        error = planned.pop(0) if planned else None
        if error is not None:
            raise error

    def start(self, model_dir: Any, splits: int = 1) -> list[Any]:
        self.splits = splits
        return []

    def _wait(self, what: str) -> Waiting[None]:
        """A look at what is pending, then the planned end of the call `what`."""
        yield []
        self._maybe_fail(what)

    def ready(self, started: Any) -> Waiting[list[Any]]:
        yield from self._wait("ready")
        return []

    def step(self, shares: Any, images: Any) -> Waiting[dict[str, float]]:
        yield from self._wait("step")
        self.applied.append(shares[0])
        return {"loss": float(len(self.applied))}

    def states(self) -> list[tuple[Any, Any]]:
        return [(None, list(self.applied))]

    def copies(self, states: Any) -> list[Any]:
        return []

    def restore(self, states: Any) -> Waiting[int]:
        yield from self._wait("restore")
        self.applied = list(states[0])
        return len(self.applied)

    def load_state(self, folder: Any, *, universal: bool = False) -> Waiting[int]:
        yield from self._wait("load_state")
        self.applied = ["saved"]
        return 1

    def write_state(self, folder: Any, states: Any) -> Waiting[dict[str, Any]]:
        yield from self._wait("write_state")
        return {"learner": [files for _, files in states]}

    def publish(self, version: int, receivers: Receivers | None = None, *, beside: bool = True) -> WeightVersion:
        return WeightVersion(version, (as_ref((self.number, beside)),), ())

    def published(self, weights: WeightVersion) -> Waiting[None]:
        yield from self._wait("published")

    def save_model(self, folder: Any, source: Any, weights: WeightVersion) -> Waiting[None]:
        yield from self._wait("save_model")

    def close(self) -> None:
        self.closed = True


def died() -> RoleError:
    return RoleError("learner rank 1 on n2 died", kind=FaultKind.DIED)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(refs: Any, timeout: float) -> Any:
        for ref in refs:
            if isinstance(ref, Exception):
                raise ref
        return refs

    def wait(refs: Any, **limits: Any) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref is not PENDING], [ref for ref in refs if ref is PENDING]

    monkeypatch.setattr(snapshot.ray, "get", get)
    monkeypatch.setattr(snapshot.ray, "nodes", list)
    monkeypatch.setattr(snapshot.ray, "cancel", lambda ref, force: None)
    monkeypatch.setattr(snapshot, "_lies_on", lambda part, nodes: True)
    monkeypatch.setattr(waiting.ray, "wait", wait)


def learners(plan: dict[int, Any], *overrides: str) -> tuple[RecoveringLearnerGroup, list[Group], list[Any]]:
    Group.made = 0
    groups: list[Group] = []

    def make() -> Any:
        groups.append(Group(plan))
        return groups[-1]

    faults: list[Any] = []
    made = RecoveringLearnerGroup(load_config(None, overrides), make, faults.append)
    finish(made.ready(made.start(Path("model"))))
    return made, groups, faults


def run(made: RecoveringLearnerGroup, names: str) -> None:
    for name in names:
        finish(made.step([as_ref(name)], [{}]))


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 6])
def test_a_death_repeats_what_was_lost_and_nothing_twice(every, fails_at):
    plan = {0: {"step": [None] * (fails_at - 1) + [died()]}}
    made, groups, faults = learners(plan, f"learner.snapshot_every={every}")
    run(made, "abcdef")
    assert groups[-1].applied == list("abcdef")
    assert [group.closed for group in groups] == [True, False]
    assert [fault.kind for fault in faults] == ["died"]


def test_deaths_in_a_row_and_during_the_rebuilding():
    plan = {0: {"step": [None, died()]}, 1: {"ready": [died()]}, 2: {"step": [died()]}}
    made, groups, faults = learners(plan)
    run(made, "abc")
    assert groups[-1].applied == list("abc")
    assert len(groups) == 4
    assert len(faults) == 3


def test_ranks_that_die_again_and_again_end_the_run():
    plan = {number: {"step": [died()]} for number in range(9)}
    made, groups, faults = learners(plan, "learner.max_failures=2")
    with pytest.raises(RoleError, match="rank 1 on n2 died"):
        finish(made.step([as_ref("a")], [{}]))
    assert len(groups) == 3
    assert len(faults) == 2, "what ends the run is not a fault that it survived"


def test_without_room_for_new_ranks_no_others_are_tried():
    full = RoleError("no room", kind=FaultKind.NO_ROOM)
    made, groups, faults = learners({0: {"step": [died()]}, 1: {"ready": [full]}})
    with pytest.raises(RoleError, match="no room"):
        finish(made.step([as_ref("a")], [{}]))
    assert len(groups) == 2
    assert [fault.kind for fault in faults] == ["died"]


def test_a_snapshot_in_the_making_is_waited_for_before_the_next(monkeypatch):
    """The one before stays until it is there."""
    made, groups, _ = learners({0: {"step": [None, None, None, None, died()]}})
    states, receipts = groups[0].states, iter([PENDING, None])
    groups[0].states = lambda: [(next(receipts), files) for _, files in states()]  # type: ignore[method-assign]
    run(made, "abc")
    assert [len(snapshot.since) for snapshot in made._snapshots] == [3, 2]
    made._snapshots[-1].states = [(as_ref(), files) for _, files in made._snapshots[-1].states or ()]
    run(made, "d")
    assert [len(snapshot.since) for snapshot in made._snapshots] == [3, 0]
    run(made, "e")
    assert groups[-1].applied == list("abcde")


def test_a_saved_state_is_the_snapshot_of_the_last_step():
    made, groups, _ = learners({}, "learner.snapshot_every=2")
    run(made, "ab")
    asked = groups[0].states
    groups[0].states = None  # type: ignore[assignment, method-assign]
    assert finish(made.save_state(Path("folder"), beside=True)) == {"learner": [["a", "b"]]}
    groups[0].states = asked  # type: ignore[method-assign]
    run(made, "c")
    writing = made.save_state(Path("folder"), beside=True)
    next(writing)
    run(made, "d")
    assert finish(writing) == {"learner": [["a", "b", "c"]]}


def test_ranks_that_die_while_a_state_is_written_beside_steps_are_the_next_steps_concern():
    plan: dict[int, Any] = {0: {"write_state": [died()], "step": [None, died()]}}
    made, groups, _ = learners(plan)
    run(made, "a")
    with pytest.raises(RoleError, match="died"):
        finish(made.save_state(Path("folder"), beside=True))
    assert len(groups) == 1
    run(made, "b")
    assert finish(made.save_state(Path("folder"))) == {"learner": [["a", "b"]]}


@pytest.mark.parametrize("kind", [FaultKind.DIED, FaultKind.DATA_LOST])
def test_ranks_that_die_while_their_state_is_written_are_rebuilt(kind):
    made, groups, _ = learners({0: {"write_state": [RoleError("gone", kind=kind)]}})
    run(made, "ab")
    assert finish(made.save_state(Path("folder"))) == {"learner": [["a", "b"]]}
    assert len(groups) == 2


def test_what_is_not_the_ranks_fault_is_not_repeated():
    made, groups, _ = learners(
        {0: {"step": [RoleError("a share is gone", kind=FaultKind.DATA_LOST), ResourceError("disk")]}}
    )
    with pytest.raises(RoleError, match="share is gone"):
        finish(made.step([as_ref("a")], [{}]))
    with pytest.raises(ResourceError):
        finish(made.step([as_ref("a")], [{}]))
    run(made, "ab")
    assert groups[0].applied == ["a", "b"]
    assert len(groups) == 1


def test_a_copy_that_was_not_made_is_not_trusted():
    made, groups, faults = learners({0: {"step": [None, None, died()]}})
    run(made, "a")
    made._snapshots[-1].states = [(as_ref(ray.exceptions.RaySystemError("no memory")), as_ref())]
    run(made, "bc")
    assert groups[-1].applied == list("abc")
    assert faults[0].action == "the snapshot before is kept"


def test_a_copy_that_is_lost_falls_back_to_the_one_before_or_says_so():
    lost = RoleError("objects lost", kind=FaultKind.DATA_LOST)
    made, groups, _ = learners({0: {"step": [None, died()]}, 1: {"restore": [lost]}})
    run(made, "ab")  # the copy after a may not be whole yet when b fails; the beginning still is
    assert groups[-1].applied == ["a", "b"]
    made, groups, _ = learners({0: {"step": [None, None, died()]}, 1: {"restore": [lost]}})
    run(made, "abc")
    assert groups[-1].applied == ["a", "b", "c"], "from the copy after a, with b trained again"
    made, _, _ = learners({0: {"step": [None, None, died()]}, 1: {"restore": [lost, lost]}})
    run(made, "ab")
    with pytest.raises(RoleError, match="lost together with the node") as raised:
        run(made, "c")
    assert raised.value.kind == "state lost"


@pytest.mark.parametrize("call", ["step", "republish"])
def test_a_step_that_cannot_be_repeated_is_no_loss_of_the_callers_data(call):
    lost = RoleError("a share is gone", kind=FaultKind.DATA_LOST)
    plan = {0: {"step": [None, None, died()], "published": [died()]}, 1: {"step": [None, lost]}}
    made, groups, _ = learners(plan, "learner.snapshot_every=5")
    run(made, "ab")
    work = made.step([as_ref("c")], [{}]) if call == "step" else made.republish(2)
    with pytest.raises(RoleError, match=r"since the last snapshot .* were lost: a share is gone") as raised:
        finish(work)
    assert raised.value.kind == "state lost"
    assert len(groups) == 2


def test_a_resumed_run_begins_with_the_saved_state():
    made, groups, _ = learners({0: {"step": [died()]}})
    assert finish(made.load_state(Path("folder"), universal=False)) == 1
    run(made, "b")
    assert groups[-1].applied == ["saved", "b"]
    gone = AssertionError("the folder may be gone by now")
    made, groups, _ = learners({0: {"step": [None, died()]}, 1: {"load_state": [gone]}})
    finish(made.load_state(Path("folder"), universal=False))
    run(made, "b")
    run(made, "c")
    assert groups[-1].applied == ["saved", "b", "c"]


def test_a_version_that_was_not_published_is_published_again():
    made, groups, _ = learners({0: {"published": [died()]}}, "rapo.max_staleness=1")
    run(made, "a")
    first = made.publish(1)
    held = finish(made.published(first))
    assert held is not first
    assert held == WeightVersion(1, (as_ref((1, False)),), ())
    assert groups[-1].applied == ["a"]
    assert finish(made.published(WeightVersion(0, (as_ref(),), ()))).version == 0, (
        "an old one is nobody's concern any more"
    )


def test_the_newest_version_is_published_again_whatever_happens_to_the_ranks_meanwhile():
    lost = RoleError("chunks lost", kind=FaultKind.DATA_LOST)
    made, groups, faults = learners({0: {"published": [died()]}, 1: {"published": [lost]}})
    run(made, "ab")
    assert finish(made.republish(2)) == WeightVersion(2, (as_ref((1, False)),), ())
    assert groups[-1].applied == ["a", "b"], "in the state in which the old ones were"
    assert [fault.kind for fault in faults] == ["died", "data lost"]
    with pytest.raises(ValueError, match="not the newest"):
        finish(made.republish(1))


def test_a_model_whose_weights_are_gone_is_saved_from_new_ones():
    lost = RoleError("chunks lost", kind=FaultKind.DATA_LOST)
    made, groups, _ = learners({0: {"save_model": [lost, died()]}})
    run(made, "a")
    finish(made.save_model(Path("folder"), Path("source"), made.publish(1)))
    assert groups[-1].applied == ["a"]
    assert len(groups) == 2


def test_ranks_that_die_while_they_copy_their_state_go_on_from_the_copy_before():
    made, groups, faults = learners({0: {"step": [None, None, died()]}})
    run(made, "ab")
    error = ray.exceptions.RayTaskError("state", "", RuntimeError("the peer is gone"))
    made._snapshots[-1].states = [(as_ref(error), as_ref(error))]
    run(made, "c")
    assert groups[1].applied == list("abc")
    assert [fault.kind for fault in faults] == ["died"]


def test_an_error_of_the_loop_that_drives_a_wait_is_no_failure_of_the_ranks():
    made, groups, faults = learners({})
    run(made, "a")

    def no_room(pending: Any) -> None:
        raise RoleError("the cluster had no room for a rollout worker")

    with pytest.raises(RoleError, match="no room for a rollout worker"):
        waiting.drive(made.step([as_ref("b")], [{}]), no_room)
    assert len(groups) == 1, "the ranks are not rebuilt"
    assert not faults
    run(made, "b")
    assert groups[0].applied == ["a", "b"]


def test_ranks_that_ran_out_of_memory_get_half_the_micro_batch_and_keep_it():
    memory = RoleError("too little memory for a micro-batch of 4 group(s)", kind=FaultKind.OUT_OF_MEMORY)
    plan = {0: {"step": [None, memory]}, 1: {"step": [None, died()]}}
    made, groups, faults = learners(plan)
    run(made, "abc")
    assert groups[-1].applied == list("abc")
    assert [group.splits for group in groups] == [1, 2, 2]
    assert "with each micro-batch in 2 parts" in faults[0].action


def test_a_large_state_is_copied_by_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(recovery.time, "monotonic", lambda: now[0])
    made, groups, _ = learners({}, "learner.snapshot_seconds=100")
    groups[0].ranks = [SimpleNamespace(state_bytes=2**33)]
    run(made, "abc")
    assert len(made._snapshots[-1].since) == 3
    now[0] = 101.0
    run(made, "d")
    assert made._snapshots[-1].since == []
    groups[0].ranks = [SimpleNamespace(state_bytes=2**20)]
    run(made, "ef")
    assert made._snapshots[-1].since == []

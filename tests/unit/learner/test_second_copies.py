"""Snapshots of ranks on several nodes: which copies are used when nodes are lost, and that second
copies hold nothing up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
from fakes import as_ref
from test_recovery import PENDING, Group, died, no_ray, run

from actors.messages import RankInfo
from cluster.learner import group, recovery, snapshot
from cluster.learner.group import LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.learner.snapshot import choose
from cluster.remote.waiting import Waiting, finish
from rapo.config import load_config
from rapo.errors import FaultKind, RoleError

__all__ = ["no_ray"]

NODES = 3


class Part(NamedTuple):
    """A rank's part of the state after `steps`, on a node."""

    rank: int
    node: int
    steps: str


class Nodes(Group):
    """A group of a rank on each of three nodes. The receipts of `copies` are those of `receipts`,
    then None."""

    receipts: list[Any]
    restored: list[list[Part]]

    def states(self) -> list[tuple[Any, Any]]:
        return [(None, Part(rank, rank, "".join(self.applied))) for rank in range(NODES)]

    def copies(self, states: Any) -> list[Any]:
        receipt = self.receipts.pop(0) if self.receipts else None
        return [(receipt, part._replace(node=(part.node + 1) % NODES)) for _, part in states]

    def restore(self, states: Any) -> Waiting[int]:
        yield from self._wait("restore")
        assert [part.rank for part in states] == list(range(NODES))
        assert len({part.steps for part in states}) == 1, "parts of one step"
        self.restored.append(states)
        self.applied = list(states[0].steps)
        return len(self.applied)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The nodes that are lost; to be filled."""
    gone: set[int] = set()
    made = snapshot._ended
    monkeypatch.setattr(snapshot, "_lies_on", lambda part, nodes: made([part]) and part[1].node not in gone)
    return gone


def on_nodes(
    plan: dict[int, Any], *overrides: str, receipts: list[Any] | None = None
) -> tuple[RecoveringLearnerGroup, list[Nodes], list[Any]]:
    Group.made = 0
    Nodes.receipts, Nodes.restored = receipts or [], []
    groups: list[Nodes] = []
    faults: list[Any] = []

    def make() -> Any:
        groups.append(Nodes(plan))
        return groups[-1]

    made = RecoveringLearnerGroup(load_config(None, overrides), make, faults.append)
    finish(made.ready(made.start(Path("model"))))
    return made, groups, faults


@pytest.mark.parametrize(
    ("unreadable", "chosen"),
    [
        ("", "own0 own1 own2"),
        ("own1", "own0 copy1 own2"),
        ("own0 copy2", "copy0 own1 own2"),
        ("own0 own1 own2", "copy0 copy1 copy2"),
        ("own1 copy1", None),
    ],
)
def test_each_part_is_the_ranks_own_or_its_second_copy(unreadable: str, chosen: str | None) -> None:
    states, copies = ([(as_ref(), as_ref(f"{name}{rank}")) for rank in range(NODES)] for name in ("own", "copy"))
    found = choose(states, copies, lambda part: part[1] not in unreadable.split())
    assert (found and " ".join(str(files) for _, files in found)) == chosen


def test_without_second_copies_a_part_that_is_lost_loses_all() -> None:
    states = [(as_ref(), as_ref(rank)) for rank in range(NODES)]
    assert choose(states, [], lambda part: part[1] != 2) is None
    assert choose(states, [], lambda part: True) == states


def test_a_node_that_is_lost_costs_no_step(lost: set[int]) -> None:
    made, groups, _ = on_nodes({0: {"step": [None, None, died()]}})
    run(made, "ab")
    lost.add(1)
    run(made, "c")
    assert Nodes.restored == [[Part(0, 0, "ab"), Part(1, 2, "ab"), Part(2, 2, "ab")]]
    assert groups[-1].applied == list("abc")


def test_what_was_restored_is_also_what_a_checkpoint_is_written_of(lost: set[int]) -> None:
    made, _, _ = on_nodes({0: {"write_state": [None, died()]}})
    run(made, "ab")
    finish(made.save_state(Path("folder")))
    lost.add(1)
    written: Any = finish(made.save_state(Path("folder")))
    assert written["learner"] == [Part(0, 0, "ab"), Part(1, 2, "ab"), Part(2, 2, "ab")]


@pytest.mark.parametrize("both", [{0, 1}, {1, 2}, {0, 1, 2}])
def test_a_part_that_is_lost_twice_leaves_the_checkpoint(lost: set[int], both: set[int]) -> None:
    made, _, _ = on_nodes({0: {"step": [None, None, None, died()]}})
    run(made, "abc")
    lost |= both
    with pytest.raises(RoleError) as raised:
        run(made, "d")
    assert raised.value.kind == FaultKind.STATE_LOST


def test_a_snapshot_whose_second_copies_are_not_made_gives_way_to_the_whole_one_before(lost: set[int]) -> None:
    made, groups, faults = on_nodes({0: {"step": [None, None, None, died()]}}, receipts=[None, PENDING])
    run(made, "abc")  # copied after a; the snapshot after b is still being copied
    assert [len(one.since) for one in made._snapshots] == [2, 1]
    lost.add(1)
    run(made, "d")
    assert Nodes.restored == [[Part(0, 0, "a"), Part(1, 2, "a"), Part(2, 2, "a")]]
    assert groups[-1].applied == list("abcd"), "the steps since are trained again"
    assert [fault.kind for fault in faults] == ["died"]


def test_a_rank_that_dies_alone_goes_on_from_the_newest_snapshot() -> None:
    made, groups, _ = on_nodes({0: {"step": [None, None, None, died()]}}, receipts=[None, PENDING])
    run(made, "abcd")
    assert Nodes.restored == [[Part(rank, rank, "ab") for rank in range(NODES)]]
    assert groups[-1].applied == list("abcd")


def test_ray_may_know_of_a_loss_only_after_something_was_fetched(lost: set[int]) -> None:
    made, groups, _ = on_nodes({0: {"step": [None, died()]}})
    run(made, "a")

    def fetched_in_vain(self: Any, states: Any) -> Waiting[int]:
        if not lost:
            lost.add(1)
            raise RoleError("objects lost", kind=FaultKind.DATA_LOST)
        return (yield from restore(self, states))

    restore, Nodes.restore = Nodes.restore, fetched_in_vain  # type: ignore[method-assign]
    try:
        run(made, "b")
    finally:
        Nodes.restore = restore  # type: ignore[method-assign]
    assert Nodes.restored == [[Part(0, 0, "a"), Part(1, 2, "a"), Part(2, 2, "a")]]
    assert groups[-1].applied == list("ab")


def test_second_copies_that_are_late_are_given_up_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    now, cancelled = [0.0], list[Any]()
    monkeypatch.setattr(recovery.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(snapshot.ray, "cancel", lambda ref, force: cancelled.append(ref))
    made, groups, faults = on_nodes({}, "learner.step_timeout_s=100", receipts=[PENDING])
    run(made, "ab")
    assert not faults
    now[0] = 101.0
    run(made, "c")
    assert [(fault.kind, fault.cause) for fault in faults] == [
        (FaultKind.LATE, "the second copies of a snapshot were not made within 100 s")
    ]
    assert [part.rank for part in cancelled] == [0, 1, 2]
    assert groups[0].applied == list("abc"), "no step waited for them"


def test_second_copies_that_fail_are_a_warning() -> None:
    failed = as_ref(ray.exceptions.WorkerCrashedError())
    made, groups, faults = on_nodes({}, receipts=[failed])
    run(made, "abcd")
    assert [fault.action for fault in faults] == ["a snapshot lies on the ranks' own nodes alone"]
    assert len(groups) == 1


def test_one_snapshot_at_a_time_is_copied_however_many_are_made() -> None:
    made, _, _ = on_nodes({}, receipts=[None, PENDING])
    run(made, "ab")
    for name in "cdef":  # each checkpoint makes a snapshot of its own
        finish(made.save_state(Path("folder"), beside=True))
        run(made, name)
    assert not Nodes.receipts
    assert [one.copies is None for one in made._snapshots] == [False, False, True]
    assert [len(one.since) for one in made._snapshots] == [5, 4, 1]


def test_second_copies_can_be_switched_off(lost: set[int]) -> None:
    made, _, _ = on_nodes({}, "learner.snapshot_buddy=false", receipts=[PENDING])
    run(made, "abc")
    assert Nodes.receipts == [PENDING], "none was asked for"
    assert made._snapshots[0].copies == []


@pytest.mark.parametrize(("nodes", "there"), [("aab", "bba"), ("abc", "bca"), ("abab", "baba"), ("aaa", ""), ("a", "")])
def test_the_second_copy_lies_on_the_next_node_of_ranks(
    monkeypatch: pytest.MonkeyPatch, nodes: str, there: str
) -> None:
    monkeypatch.setattr(group, "copy_on", lambda node, receipt, files: (receipt, f"{files}@{node}"))
    settings = (f"learner.workers={len(nodes)}", "learner.cpus=0", "learner.zero_stage=0")
    ranks = LearnerGroup(load_config(None, settings), lambda *arguments, options: as_ref())
    ranks.ranks = [RankInfo(rank, "host", 0, 1, node_id=node) for rank, node in enumerate(nodes)]
    copies = ranks.copies([(as_ref(rank), as_ref(rank)) for rank in range(len(nodes))])
    assert copies == [(rank, f"{rank}@{node}") for rank, node in enumerate(there)]

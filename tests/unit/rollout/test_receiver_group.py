"""Which workers receive a broadcast version together, and what becomes of it when one is lost."""

from __future__ import annotations

from typing import Any

from fake_workers import Actor, died, polled, ready, states
from fakes import as_ref
from ray.exceptions import RayTaskError

from cluster.remote.weight_source import Broadcast, WeightVersion
from cluster.rollout.fleet import Fleet
from cluster.rollout.receiver_group import ReceiverGroup
from rapo.errors import WeightError
from rapo.records import Meeting

BROADCAST = ("rollout.weight_transport=broadcast", "rollout.workers=3")


def version(number: int, fleet: Fleet) -> WeightVersion:
    receivers = fleet.receivers()
    assert receivers is not None
    meeting = Meeting("127.0.0.1", 1, receivers.epoch, 2 + len(receivers.workers), senders=2)
    return WeightVersion(number, (as_ref(number),), (), Broadcast(meeting, receivers))


def calls(actor: Actor, *names: str) -> list[tuple[Any, ...]]:
    return [(name, *arguments) for name, arguments, _ in actor.calls if name in names]


def end(actors: list[Actor], number: int) -> None:
    for actor in actors:
        for ref in actor.in_flight("receive"):
            ref.ok(number)


def test_a_group_keeps_its_epoch_while_nothing_changes():
    group = ReceiverGroup()
    first = group.form([2, 1])
    assert first is not None
    assert first.workers == (1, 2)
    assert group.form([1, 2]) == first
    joined = group.form([1, 2, 3])
    assert joined is not None
    assert joined.epoch > first.epoch
    assert not group.fail(first.epoch), "it was replaced before"
    assert group.fail(joined.epoch)
    assert not group.fail(joined.epoch), "known by now"
    again = group.form([1, 2, 3])
    assert again is not None
    assert again.epoch > joined.epoch
    assert group.form([]) is None


def test_all_receive_a_version_together_and_the_next_over_the_same_connections():
    fleet, actors, faults = ready(*BROADCAST)
    for number in (1, 2):
        fleet.load(version(number, fleet))
        end(actors, number)
        fleet.loaded(1.0)
    meeting = Meeting("127.0.0.1", 1, 1, 5, senders=2)
    for member, actor in enumerate(actors, 2):
        assert calls(actor, "receive", "load") == [("receive", 1, meeting, member), ("receive", 2, meeting, member)]
    assert [status.version for status in fleet.statuses()] == [2, 2, 2]
    assert not faults


def test_without_the_setting_nothing_is_broadcast():
    fleet, _, _ = ready()
    assert fleet.receivers() is None


def test_a_worker_that_dies_in_the_middle_costs_one_version_and_one_group():
    fleet, actors, faults = ready(*BROADCAST)
    fleet.load(version(1, fleet))
    first = [actor.in_flight("receive")[0] for actor in actors]
    first[1].fail(died())
    polled(fleet)
    assert [calls(actor, "give_up") for actor in (actors[0], actors[2])] == [[("give_up", 1)]] * 2
    for actor, ref in ((actors[0], first[0]), (actors[2], first[2])):
        ref.fail(RayTaskError("receive", "tb", WeightError("the broadcast of the weights failed")))
        polled(fleet)
        assert calls(actor, "load") == [("load", [], 1)], "the version comes through the object store"
    assert states(fleet).count("ready") == 0
    assert [fault.action for fault in faults] == ["replaced"]
    polled(fleet, 1.5)  # the one that replaces it joins late
    assert calls(actors[0], "load") == [("load", [], 1)]
    for worker in fleet.workers:
        for ref in worker.actor.in_flight("load"):
            ref.ok(1)
    fleet.loaded(5.0)
    second = version(2, fleet)
    assert second.broadcast is not None
    assert second.broadcast.receivers.epoch > 1
    assert second.broadcast.receivers.workers == (0, 2, 3)


def test_a_broadcast_that_fails_at_one_worker_alone_ends_at_all():
    fleet, actors, faults = ready(*BROADCAST)
    fleet.load(version(1, fleet))
    (failed,) = actors[0].in_flight("receive")
    failed.fail(RayTaskError("receive", "tb", WeightError("do not match their fingerprint")))
    polled(fleet)
    assert calls(actors[0], "load") == [("load", [], 1)]
    assert [calls(actor, "give_up") for actor in actors] == [[], [("give_up", 1)], [("give_up", 1)]]
    assert [fault.action for fault in faults] == ["this version comes through the object store"]
    end(actors[1:], 1)  # they had all of it before they heard
    actors[0].in_flight("load")[0].ok(1)
    fleet.loaded(1.0)
    after = version(2, fleet)
    assert after.broadcast is not None
    assert after.broadcast.receivers.epoch == 2


def test_a_worker_that_still_loads_is_left_out_and_pulls():
    fleet, actors, _ = ready(*BROADCAST)
    fleet.load(WeightVersion(1, (as_ref(1),), ()))
    for actor in actors[1:]:
        actor.in_flight("load")[0].ok(1)
    polled(fleet)
    fleet.load(version(2, fleet))
    assert not actors[0].in_flight("receive")
    assert all(actor.in_flight("receive") for actor in actors[1:])
    actors[0].in_flight("load")[0].ok(1)
    polled(fleet)
    assert calls(actors[0], "load") == [("load", [], 1), ("load", [], 2)]

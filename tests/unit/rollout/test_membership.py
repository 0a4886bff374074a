"""Membership: workers that join, leave and are replaced, as plain objects."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_workers import FAST, Reports, Workers, died, made, polled, ready, receipt, states, task
from fakes import as_ref
from ray.exceptions import RayTaskError

from actors.messages import ProcessInfo
from cluster.remote import drain_notices
from cluster.remote.weight_source import WeightVersion
from cluster.rollout import membership
from cluster.rollout.fleet import Fleet
from cluster.rollout.listener import WorkerEvent
from rapo.config import load_config
from rapo.errors import ModelError, RoleError


def test_a_greeting_that_comes_after_the_engine_is_up_takes_nothing_back():
    fleet, workers, _ = made("rollout.workers=1", hello=None)
    (actor,) = workers.made
    fleet.ready()
    (greeting,) = actor.in_flight("hello")
    greeting.ok(ProcessInfo("n0", 100))
    polled(fleet)
    assert states(fleet) == ["ready"]
    assert fleet.statuses()[0].node == "n0"


def test_a_worker_that_does_not_answer_is_replaced():
    fleet, actors, faults = ready("rollout.hang_timeout_s=0.5")
    fleet.submit(task(0))
    fleet.poll(0.0)
    holder = next(a for a in actors if a.tickets())
    del holder.answers["ping"]
    deadline = time.monotonic() + 10
    while not holder.killed:
        assert time.monotonic() < deadline
        polled(fleet)
    polled(fleet)
    assert [fault.kind for fault in faults] == ["hung"]
    assert sum(len(a.tickets()) for a in actors if not a.killed) == 1


@pytest.mark.parametrize(("workers", "least", "most"), [(4, 4, 40), (64, 0, 0)])
def test_a_large_fleet_is_not_pinged_more_often_than_the_driver_can_afford(workers, least, most):
    """16 pings a second: of four workers each every .25 s, of 64 every four seconds."""
    fleet, actors, _ = ready(f"rollout.workers={workers}")
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        polled(fleet)
    pings = [name for actor in actors for name, _, _ in actor.calls if name == "ping"]
    assert least <= len(pings) <= most


@pytest.mark.parametrize(
    ("limit", "call", "words"),
    [
        ("rollout.generate_timeout_s=0.1", "generate", "did not finish a group of 0"),
        ("rollout.load_timeout_s=0.1", "load", "did not load its weights"),
    ],
)
def test_a_worker_that_is_late_is_replaced(limit, call, words):
    fleet, actors, faults = ready(limit)
    if call == "load":
        fleet.load(WeightVersion(1, (as_ref(),), ()))
    else:
        fleet.submit(task(0))
    polled(fleet, 0.3)
    assert {fault.kind for fault in faults} == {"late"}
    assert words in faults[0].cause
    assert actors[0].killed or actors[1].killed


def test_a_fleet_that_nobody_polled_for_long_takes_no_worker_for_late():
    fleet, actors, faults = ready("rollout.generate_timeout_s=0.2")
    fleet.submit(task(0))
    fleet.poll(0.0)
    (holder,) = (actor for actor in actors if actor.tickets())
    holder.in_flight("generate")[0].ok(receipt())
    time.sleep(0.3)
    assert [result.task.ticket for result in polled(fleet)] == [0]
    assert not faults


def test_workers_that_came_while_nobody_polled_have_found_room():
    fleet, _, _ = made("rollout.place_timeout_s=0.05")
    time.sleep(0.1)
    assert len(fleet.ready()) == 2


def test_a_late_joiner_gets_the_newest_weights_before_it_gets_work():
    fleet, actors, _ = ready()
    fleet.load(WeightVersion(4, (as_ref(),), ()))
    for actor in actors:
        actor.in_flight("load")[0].ok(4)
    polled(fleet)
    fleet.resize(3)
    polled(fleet)
    assert len(actors) == 3
    assert states(fleet)[2] == "syncing"
    fleet.submit(task(0, min_version=4))
    polled(fleet)
    assert not actors[2].tickets()
    actors[2].in_flight("load")[0].ok(4)
    polled(fleet)
    assert states(fleet) == ["ready"] * 3


def test_leaving_workers_finish_what_they_have():
    fleet, actors, faults = ready("rollout.workers=3")
    for ticket in range(6):
        fleet.submit(task(ticket))
    fleet.poll(0.0)
    assert fleet.resize(1) == 1
    assert states(fleet) == ["ready", "draining", "draining"]
    fleet.submit(task(6))
    polled(fleet)
    assert fleet.waiting == 1, "those that leave get nothing more"
    drawn = []
    for actor in actors[1:]:
        for ref in actor.in_flight("generate"):
            ref.ok(receipt())
    drawn += polled(fleet)
    assert len(drawn) == 4
    assert states(fleet) == ["ready"]
    assert [a.killed for a in actors] == [False, True, True]
    assert not faults


def test_scaling_is_idempotent_and_keeps_the_first_worker():
    fleet, actors, _ = ready("rollout.max_workers=4")
    assert [fleet.resize(n) for n in (4, 4, 99, 0, 2, 2)] == [4, 4, 4, 1, 2, 2]
    polled(fleet)
    assert [a.killed for a in actors][:2] == [False, True]
    assert len(fleet) == 2
    before = len(actors)
    fleet.resize(1)
    fleet.submit(task(0))
    fleet.resize(2)  # before it has left: it stays
    polled(fleet)
    assert len(actors) <= before + 1
    assert len(fleet) == 2


def test_engines_that_refuse_to_start_end_the_run():
    fleet, workers, _ = made(start=None)
    workers.made[0].in_flight("start")[0].fail(RayTaskError("start", "tb", ModelError("no such model")))
    with pytest.raises(ModelError, match="no such model"):
        fleet.ready()
    assert [actor.killed for actor in workers.made] == [True, False]
    assert len(fleet.workers) == 1, "the worker that failed does not stay behind"


def test_a_gpu_that_is_still_in_use_is_tried_again(monkeypatch):
    monkeypatch.setattr(membership, "_MOST_BACKOFF_S", 0.01)
    fleet, workers, faults = made("rollout.workers=1", start=None)
    words = "Free memory on device (3.1/79.1 GiB) on startup is less than desired GPU memory utilization"
    for _ in range(2):
        polled(fleet)
        workers.made[-1].in_flight("start")[0].fail(RayTaskError("start", "tb", ValueError(words)))
        polled(fleet)
    workers.made[-1].in_flight("start")[0].ok(None)
    polled(fleet)
    assert states(fleet) == ["ready"]
    assert len(faults) == 2


def test_workers_that_die_one_after_the_other_before_any_work_end_the_run(monkeypatch):
    monkeypatch.setattr(membership, "_MOST_BACKOFF_S", 0.01)
    fleet, workers, faults = made(start=None)

    def pump() -> None:
        for _ in range(200):
            fleet.poll(0.01)
            for actor in workers.made:
                for ref in actor.in_flight("start"):
                    ref.fail(died())

    with pytest.raises(RoleError, match="died"):
        pump()
    assert len(faults) == 5
    assert sum(not actor.killed for actor in workers.made) == len(fleet.workers)


def test_the_way_to_the_first_group_is_timed():
    reports = Reports()
    fleet = Fleet(load_config(None, FAST), Workers(), reports)
    fleet.start(Path("/model"), 0)
    fleet.ready()
    reports.events.clear()
    fleet.submit(task(0))
    fleet.poll(0.0)
    ((event, parts),) = reports.events
    assert event is WorkerEvent.ROUTED
    assert list(parts) == ["process", "engine", "weights", "first_group"]


def test_a_cluster_without_room_ends_the_run():
    fleet, _, faults = made("rollout.place_timeout_s=0.1", hello=None, start=None)
    with pytest.raises(RoleError, match="no room for a rollout worker"):
        polled(fleet, 5.0)
    assert not faults


def test_workers_of_a_node_that_is_about_to_go_finish_and_are_replaced(monkeypatch):
    fleet, actors, faults = ready()
    fleet.submit(task(0))
    fleet.poll(0.0)
    holder, other = sorted(actors, key=lambda a: not a.tickets())
    (going,) = (worker.node_id for worker in fleet._members.workers if worker.actor is holder)
    monkeypatch.setattr(drain_notices, "_EVERY_S", 0.0)
    monkeypatch.setattr(drain_notices, "_draining", lambda: {going: "the host of all"})
    polled(fleet)
    assert states(fleet)[:2].count("draining") == 1
    assert not holder.killed, "it finishes what it has"
    assert len(actors) == 3, "another one comes at once"
    monkeypatch.setattr(drain_notices, "_draining", dict)  # the node has gone before a step ended
    assert fleet.newly_draining() == {"the host of all"}
    assert fleet.newly_draining() == frozenset()
    (call,) = holder.in_flight("generate")
    call.ok(receipt(0))
    polled(fleet)
    assert holder.killed
    assert not other.killed
    assert faults == []

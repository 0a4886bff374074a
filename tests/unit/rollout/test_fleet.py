"""The fleet on workers that are plain objects: who joins, leaves, gets what, and what becomes of
work whose worker is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from cluster.remote import waiting
from cluster.remote.weights import WeightVersion
from cluster.rollout import fleet as fleet_module
from cluster.rollout import worker_handle as member_module
from cluster.rollout.fleet import Fleet
from cluster.rollout.tasks import Task
from cluster.rollout.worker_handle import WorkerState
from rapo.config import load_config
from rapo.errors import ImageError, ModelError, RoleError, WeightError
from rapo.records import ImageRecord

FAST = ("rollout.cpus=0", "rollout.heartbeat_s=0.05", "rollout.max_groups=2", "rollout.workers=2")


class Ref:
    """What a call returns; a test ends it."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self._future

    def ok(self, value: Any) -> None:
        self._future.set_result(value)

    def fail(self, error: Exception) -> None:
        self._future.set_exception(error)

    @property
    def open(self) -> bool:
        return not self._future.done()


class Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Any:
        ref = Ref()
        self._actor.calls.append((self._name, arguments, ref))
        if self._name in self._actor.answers:
            ref.ok(self._actor.answers[self._name](*arguments))
        return (ref, object()) if self._name == "generate" else ref


class Actor:
    """A worker that says hello, answers pings and starts at once; draws and loads end when the test
    says so."""

    def __init__(self, number: int) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], Ref]] = []
        self.killed = False
        self.answers: dict[str, Any] = {
            "hello": lambda: {"node": f"n{number}", "pid": 100 + number},
            "ping": lambda: None,
            "start": lambda model, version: {},
            "load_folder": lambda folder, version: version,
        }

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def under_way(self, name: str) -> list[Ref]:
        return [ref for called, _, ref in self.calls if called == name and ref.open]

    def tickets(self) -> list[str]:
        return [arguments[0].uid for name, arguments, ref in self.calls if name == "generate" and ref.open]


class Workers:
    """Stands in for the actor class; `made` are its actors."""

    def __init__(self, **answers: Any) -> None:
        self.made: list[Actor] = []
        self._answers = answers

    def options(self, **options: Any) -> Workers:
        return self

    def remote(self, name: str, config: Any) -> Actor:
        actor = Actor(len(self.made))
        actor.answers = {name: say for name, say in (actor.answers | self._answers).items() if say is not None}
        self.made.append(actor)
        return actor


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module.ray, "kill", lambda actor: setattr(actor, "killed", True))
    monkeypatch.setattr(waiting, "log_folder", lambda: "/logs")
    monkeypatch.setattr(fleet_module, "log_folder", lambda: "/logs")
    monkeypatch.setattr(fleet_module, "_TEND_S", 0.01)
    monkeypatch.setattr(fleet_module, "_POLL_S", 0.05)


def made(*overrides: str, **answers: Any) -> tuple[Fleet, Workers, list[Any]]:
    workers, faults = Workers(**answers), []
    fleet = Fleet(load_config(None, (*FAST, *overrides)), workers, faults.append)
    fleet.start(Path("/model"), 0)
    return fleet, workers, faults


def ready(*overrides: str) -> tuple[Fleet, list[Actor], list[Any]]:
    fleet, workers, faults = made(*overrides)
    fleet.ready()
    return fleet, workers.made, faults


def task(ticket: int, needs: int = 0) -> Task:
    return Task(ticket, ImageRecord(f"{ticket}", "d", "train", 0.5, 0.5, (0.0, 1.0), data=b"x"), None, 0, needs)


def receipt(version: int = 0) -> dict[str, Any]:
    return {"version": version, "tokens": 8, "busy_seconds": 1.0}


def turns(fleet: Fleet, seconds: float = 0.1) -> list[Any]:
    """What is drawn meanwhile; ten turns at least, however slow the machine is."""
    drawn, deadline, polls = [], time.monotonic() + seconds, 0
    while polls < 10 or time.monotonic() < deadline:
        drawn += fleet.poll(0.01)
        polls += 1
    return drawn


def states(fleet: Fleet) -> list[str]:
    return [member.state.value for member in fleet.members]


def died() -> Exception:
    return ActorDiedError()


def test_a_greeting_that_comes_after_the_engine_is_up_takes_nothing_back():
    fleet, workers, _ = made("rollout.workers=1", hello=None)
    (actor,) = workers.made
    fleet.ready()
    (greeting,) = actor.under_way("hello")
    greeting.ok({"node": "n0", "pid": 100})
    turns(fleet)
    assert states(fleet) == ["ready"]
    assert fleet.rows()[0]["node"] == "n0"


def test_work_goes_to_whoever_has_least_and_comes_back_once():
    fleet, actors, _ = ready()
    for ticket in range(5):
        fleet.submit(task(ticket))
    assert not fleet.poll(0.0)
    assert sorted(map(len, (a.tickets() for a in actors))) == [2, 2], "two at a time on each, one waits"
    actors[0].under_way("generate")[0].ok(receipt())
    (drawn,) = fleet.poll(1.0)
    assert drawn.task.ticket == 0
    turns(fleet)
    assert len(actors[0].tickets()) == 2
    assert fleet.waiting == 0


def test_what_a_lost_worker_had_is_given_to_others():
    fleet, actors, faults = ready()
    for ticket in range(4):
        fleet.submit(task(ticket))
    fleet.poll(0.0)
    had = actors[0].tickets()
    late = actors[0].under_way("generate")
    late[0].fail(died())
    turns(fleet)
    assert actors[0].killed
    assert [(fault.role, fault.node, fault.kind) for fault in faults] == [("rollout-0", "n0", "died")]
    late[1].ok(receipt())  # the dead may still speak; nobody listens
    for ref in actors[1].under_way("generate"):
        ref.ok(receipt())
    drawn = turns(fleet)
    assert len(actors) == 3, "a new worker takes its place"
    for actor in actors[1:]:
        for ref in actor.under_way("generate"):
            ref.ok(receipt())
    drawn += turns(fleet)
    assert sorted(one.task.ticket for one in drawn) == [0, 1, 2, 3]
    assert set(had) <= {arguments[0].uid for a in actors[1:] for name, arguments, _ in a.calls if name == "generate"}


def test_a_worker_that_does_not_answer_is_replaced():
    fleet, actors, faults = ready("rollout.hang_timeout_s=0.5")
    fleet.submit(task(0))
    fleet.poll(0.0)
    holder = next(a for a in actors if a.tickets())
    del holder.answers["ping"]
    deadline = time.monotonic() + 10
    while not holder.killed:
        assert time.monotonic() < deadline
        turns(fleet)
    turns(fleet)
    assert [fault.kind for fault in faults] == ["hung"]
    assert sum(len(a.tickets()) for a in actors if not a.killed) == 1


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
        fleet.load(WeightVersion(1, None, ()))
    else:
        fleet.submit(task(0))
    turns(fleet, 0.3)
    assert {fault.kind for fault in faults} == {"late"}
    assert words in faults[0].cause
    assert actors[0].killed or actors[1].killed


def test_groups_wait_for_weights_that_are_new_enough():
    fleet, actors, _ = ready()
    fleet.submit(task(0, needs=1))
    turns(fleet)
    assert fleet.waiting == 1
    fleet.load(WeightVersion(1, None, ()))
    actors[1].under_way("load")[0].ok(1)
    turns(fleet)
    assert actors[1].tickets() == ["0"], "the worker that was quick; nobody waits for the other"
    assert not actors[0].tickets()


def test_the_first_to_have_loaded_leaves_the_others_their_share_and_waits_for_nobody():
    fleet, actors, _ = ready("rollout.max_groups=16")
    fleet.load(WeightVersion(1, None, ()))
    for ticket in range(8):
        fleet.submit(task(ticket, needs=1))
    actors[0].under_way("load")[0].ok(1)
    turns(fleet)
    assert len(actors[0].tickets()) == 4
    drawn = []
    for _ in range(8):  # the other one never comes
        for ref in actors[0].under_way("generate"):
            ref.ok(receipt(1))
        drawn += turns(fleet, 0.05)
    assert len(drawn) == 8
    assert not actors[1].tickets()


def test_predictions_are_shared_by_those_that_are_still_loading():
    fleet, actors, _ = ready()
    fleet.load_folder(Path("/other"), 0)
    for actor in actors:
        actor.answers["predict"] = lambda records: [r.uid for r in records]
    assert fleet.predictions([task(i).record for i in range(6)]) == [str(i) for i in range(6)]
    assert [sum(name == "predict" for name, _, _ in actor.calls) for actor in actors] == [1, 1]


def test_a_slow_worker_loads_the_newest_version_next():
    fleet, actors, _ = ready()
    for version in (1, 2, 3):
        fleet.load(WeightVersion(version, version, ()))
    (first,) = actors[0].under_way("load")
    first.ok(1)
    turns(fleet)
    assert [arguments[0] for name, arguments, _ in actors[0].calls if name == "load"] == [1, 3]


def test_a_late_joiner_gets_the_newest_weights_before_it_gets_work():
    fleet, actors, _ = ready()
    fleet.load(WeightVersion(4, None, ()))
    for actor in actors:
        actor.under_way("load")[0].ok(4)
    turns(fleet)
    fleet.resize(3)
    turns(fleet)
    assert len(actors) == 3
    assert states(fleet)[2] == "syncing"
    fleet.submit(task(0, needs=4))
    turns(fleet)
    assert not actors[2].tickets()
    actors[2].under_way("load")[0].ok(4)
    turns(fleet)
    assert states(fleet) == ["ready"] * 3


def test_leaving_workers_finish_what_they_have():
    fleet, actors, faults = ready("rollout.workers=3")
    for ticket in range(6):
        fleet.submit(task(ticket))
    fleet.poll(0.0)
    assert fleet.resize(1) == 1
    assert states(fleet) == ["ready", "draining", "draining"]
    fleet.submit(task(6))
    turns(fleet)
    assert fleet.waiting == 1, "those that leave get nothing more"
    drawn = []
    for actor in actors[1:]:
        for ref in actor.under_way("generate"):
            ref.ok(receipt())
    drawn += turns(fleet)
    assert len(drawn) == 4
    assert states(fleet) == ["ready"]
    assert [a.killed for a in actors] == [False, True, True]
    assert not faults


def test_scaling_is_idempotent_and_keeps_the_first_worker():
    fleet, actors, _ = ready("rollout.max_workers=4")
    assert [fleet.resize(n) for n in (4, 4, 99, 0, 2, 2)] == [4, 4, 4, 1, 2, 2]
    turns(fleet)
    assert [a.killed for a in actors][:2] == [False, True]
    assert len(fleet) == 2
    before = len(actors)
    fleet.resize(1)
    fleet.submit(task(0))
    fleet.resize(2)  # before it has left: it stays
    turns(fleet)
    assert len(actors) <= before + 1
    assert len(fleet) == 2


def test_a_call_that_kills_worker_after_worker_is_named():
    fleet, _, faults = ready("rollout.workers=1")
    fleet.submit(task(7))

    def pump() -> None:
        for _ in range(400):
            fleet.poll(0.01)
            for member in list(fleet.members):
                for ref in member.actor.under_way("generate"):
                    member.worked = True
                    ref.fail(died())

    with pytest.raises(RoleError, match="a group of 7 was under way on 5 rollout workers"):
        pump()
    assert len(faults) == 5


def test_an_error_over_the_input_ends_the_run():
    fleet, actors, faults = ready()
    fleet.submit(task(0))
    fleet.poll(0.0)
    holder = next(a for a in actors if a.tickets())
    holder.under_way("generate")[0].fail(RayTaskError("generate", "tb", ImageError("x.png is gone", reason="io")))
    with pytest.raises(ImageError, match=r"x\.png is gone"):
        turns(fleet)
    assert not faults


def test_engines_that_refuse_to_start_end_the_run():
    workers = Workers()
    fleet = Fleet(load_config(None, FAST), workers)
    workers.remote = lambda name, config: _without_start(workers)  # type: ignore[method-assign]
    fleet.start(Path("/model"), 0)
    workers.made[0].under_way("start")[0].fail(RayTaskError("start", "tb", ModelError("no such model")))
    with pytest.raises(ModelError, match="no such model"):
        fleet.ready()


def _without_start(workers: Workers) -> Actor:
    actor = Actor(len(workers.made))
    del actor.answers["start"]
    workers.made.append(actor)
    return actor


def test_workers_that_die_one_after_the_other_before_any_work_end_the_run(monkeypatch):
    monkeypatch.setattr(fleet_module, "_MOST_BACKOFF_S", 0.01)
    workers, faults = Workers(), []
    workers.remote = lambda name, config: _without_start(workers)  # type: ignore[method-assign]
    fleet = Fleet(load_config(None, FAST), workers, faults.append)
    fleet.start(Path("/model"), 0)

    def pump() -> None:
        for _ in range(200):
            fleet.poll(0.01)
            for actor in workers.made:
                for ref in actor.under_way("start"):
                    ref.fail(died())

    with pytest.raises(RoleError, match="died"):
        pump()
    assert len(faults) == 5


def test_damaged_weights_are_asked_for_anew_and_end_the_run_if_that_does_not_help():
    fleet, actors, faults = ready()
    asked = []
    fleet.lost = asked.append
    fleet.load(WeightVersion(1, None, ()))

    def pump() -> None:
        for _ in range(100):
            fleet.poll(0.01)
            for actor in actors:
                for ref in actor.under_way("load"):
                    ref.fail(RayTaskError("load", "tb", WeightError("checksum of layer 3")))

    with pytest.raises(WeightError, match="checksum"):
        pump()
    assert asked == [1] * 5
    assert {fault.action for fault in faults} == {"it loads again"}
    fleet.submit(task(0))
    assert not any(a.tickets() for a in actors), "nobody works without verified weights"


def test_a_version_that_is_to_come_anew_is_waited_for():
    fleet, actors, _ = ready()
    asked = []
    fleet.lost = lambda version: asked.append(version) is None
    first = WeightVersion(1, None, ())
    fleet.load(first)
    for actor in actors:
        for ref in actor.under_way("load"):
            ref.fail(RayTaskError("load", "tb", WeightError("checksum of layer 3")))
    for _ in range(50):
        fleet.poll(0.01)
    assert asked == [1] * len(actors), "each told it once and did not try again"
    assert not any(actor.under_way("load") for actor in actors)
    fleet.load(WeightVersion(1, None, ()))
    assert all(actor.under_way("load") for actor in actors)


def test_predictions_survive_a_death_and_come_in_order():
    fleet, actors, _ = ready()
    records = [task(i).record for i in range(6)]

    def answer() -> None:
        first = True
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for actor in actors:
                for name, arguments, ref in list(actor.calls):
                    if name == "predict" and ref.open:
                        if first:
                            ref.fail(died())
                            first = False
                        else:
                            ref.ok([r.uid for r in arguments[0]])
            time.sleep(0.01)
            if done:
                return

    done: list[bool] = []
    helper = threading.Thread(target=answer)
    helper.start()
    try:
        predicted = fleet.predictions(records)
    finally:
        done.append(True)
        helper.join(timeout=10)
    assert predicted == [r.uid for r in records]


def test_the_way_to_the_first_group_is_timed():
    fleet, _, _ = ready()
    seen = []
    fleet.journal = lambda event, member: seen.append((event, member.joining()))
    fleet.submit(task(0))
    fleet.poll(0.0)
    ((event, parts),) = seen
    assert event == "routed"
    assert list(parts) == ["process", "engine", "weights", "first_group"]
    assert all(seconds >= 0.0 for seconds in parts.values())
    assert fleet.members[0].state is WorkerState.READY

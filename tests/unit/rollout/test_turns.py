"""Workers that share their GPUs with the learner, as plain objects: they sleep in its turn, and
wake with the newest weights."""

from __future__ import annotations

from threading import Timer
from typing import Any

import pytest
from fake_workers import Actor, Workers, died, made, polled, ready, receipt, states, task
from fakes import as_ref
from ray.exceptions import RayTaskError

from cluster.learner.group import LearnerGroup
from cluster.remote import placement
from cluster.remote.faults import Fault
from cluster.remote.weight_source import WeightVersion
from cluster.rollout.fleet import Fleet
from rapo.config import load_config
from rapo.errors import WeightError

SHARED = ("rollout.placement=colocate", "rapo.max_staleness=0", "learner.workers=2", "learner.cpus=0")


def awake(*overrides: str) -> tuple[Fleet, list[Actor], list[Fault]]:
    fleet, actors, faults = ready(*SHARED, *overrides)
    for actor in actors:
        actor.answers["sleep"] = lambda: None
    return fleet, actors, faults


def names(actor: Actor) -> list[str]:
    return [name for name, *_ in actor.calls if name not in ("ping", "hello", "start")]


def loaded(actor: Actor) -> list[Any]:
    return [arguments[0] for name, arguments, _ in actor.calls if name == "load"]


def version(number: int) -> WeightVersion:
    return WeightVersion(number, as_ref(number), ())


def test_engines_sleep_in_the_learners_turn_and_wake_with_the_newest_weights_alone():
    fleet, actors, _ = awake()
    fleet.sleep()
    assert fleet.asleep
    assert states(fleet) == ["asleep", "asleep"]
    assert len(fleet) == 2, "they count in the figures of the step"
    fleet.submit(task(0))
    for number in (1, 2):
        fleet.load(version(number))
    polled(fleet)
    assert [names(actor) for actor in actors] == [["sleep"], ["sleep"]], "nothing wakes an engine before its turn"
    fleet.wake()
    assert not fleet.asleep
    assert [loaded(actor) for actor in actors] == [[2], [2]]
    assert not any(actor.tickets() for actor in actors), "no task before the weights are there"
    actors[1].in_flight("load")[0].ok(2)
    polled(fleet)
    assert states(fleet) == ["syncing", "ready"]
    assert actors[1].tickets() == ["0"]
    assert fleet.waking_seconds > 0.0


def test_the_same_weights_are_loaded_again_because_a_sleeping_engine_drops_them():
    fleet, actors, _ = awake()
    for turn in (1, 2):
        fleet.sleep()
        fleet.wake()
        polled(fleet)
        assert names(actors[0]) == ["sleep", "load_folder"] * turn
        assert states(fleet) == ["ready", "ready"]


def test_an_engine_sleeps_once_what_it_loads_is_there_and_one_that_could_not_load_sleeps_as_well():
    fleet, actors, _ = awake()
    fleet.load(version(1))
    first, second = (actor.in_flight("load")[0] for actor in actors)
    ends = Timer(0.1, lambda: (first.ok(1), second.fail(RayTaskError("load", "tb", WeightError("torn")))))
    ends.start()
    fleet.sleep()
    assert [names(actor) for actor in actors] == [["load", "sleep"]] * 2
    assert states(fleet) == ["asleep", "asleep"]


def test_a_worker_that_dies_asleep_is_replaced_in_its_place_when_the_others_wake():
    fleet, actors, faults = awake()
    fleet.sleep()
    made_before = len(actors)
    polled(fleet, 0.2)  # pings go out
    actors[1].answers.pop("ping")
    while not actors[1].in_flight("ping"):
        fleet.poll(0.01)
    actors[1].in_flight("ping")[0].fail(died())
    polled(fleet, 0.7)
    assert [fault.kind for fault in faults] == ["died"]
    assert len(actors) == made_before, "the learner has the GPU"
    fleet.wake()
    polled(fleet)
    assert len(actors) == made_before + 1
    assert sorted(worker.bundle for worker in fleet.workers if worker.bundle is not None) == [0, 1]
    assert states(fleet) == ["ready", "ready"]


@pytest.mark.parametrize("error", [died(), RayTaskError("load", "tb", RuntimeError("out of memory"))])
def test_a_worker_that_dies_while_it_wakes_is_replaced_and_its_group_goes_to_another(error):
    fleet, actors, faults = awake()
    fleet.sleep()
    fleet.load(version(1))
    fleet.wake()
    fleet.submit(task(0))
    actors[0].in_flight("load")[0].fail(error)
    actors[1].in_flight("load")[0].ok(1)
    polled(fleet)
    assert len(faults) == 1
    (group,) = actors[1].in_flight("generate")
    group.ok(receipt(1))
    assert [result.task.ticket for result in polled(fleet)] == [0]
    assert len(actors) == 3


def test_no_turn_waits_for_a_worker_without_a_limit():
    fleet, actors, faults = awake("rollout.load_timeout_s=0.2")
    actors[0].answers.pop("sleep")
    fleet.sleep()
    assert [fault.kind for fault in faults] == ["late"]
    assert actors[0].killed, "it may hold memory"
    assert states(fleet) == ["asleep"]


def test_a_worker_that_dies_on_its_way_to_sleep_is_lost():
    fleet, actors, faults = awake()
    actors[0].answers.pop("sleep")
    ends = Timer(0.1, lambda: actors[0].in_flight("sleep")[0].fail(died()))
    ends.start()
    fleet.sleep()
    assert [fault.kind for fault in faults] == ["died"]
    assert states(fleet) == ["asleep"]


def test_a_process_that_does_not_come_holds_up_no_turn():
    fleet, workers, _ = made(*SHARED, "rollout.start_timeout_s=0.2", hello=None, start=None)
    fleet.sleep()
    assert fleet.asleep
    assert not fleet.workers
    assert all(actor.killed for actor in workers.made)


def test_an_engine_that_starts_meanwhile_sleeps_before_the_learner_begins():
    fleet, workers, _ = made(*SHARED, start=None, sleep=lambda: None)
    fleet.poll(0.01)
    ends = Timer(0.1, lambda: [ref.ok(None) for actor in workers.made for ref in actor.in_flight("start")])
    ends.start()
    fleet.sleep()
    assert states(fleet) == ["asleep", "asleep"]
    assert [names(actor) for actor in workers.made] == [["sleep"], ["sleep"]]


def test_there_are_as_many_workers_as_ranks_at_most():
    fleet, _, _ = awake()
    assert fleet.resize(5) == 2


def test_rank_and_worker_of_one_number_have_one_bundle_and_half_of_its_gpu_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    found: dict[str, list[Any]] = {"rank": [], "worker": []}
    room: Any = object()

    def made_room(bundles: Any, **how: Any) -> Any:
        asked.append(bundles)
        return room

    def bundle_of(group: Any, placement_group_bundle_index: int) -> tuple[Any, int]:
        return group, placement_group_bundle_index

    monkeypatch.setattr(placement, "placement_group", made_room)
    monkeypatch.setattr(placement, "remove_placement_group", asked.append)
    monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", bundle_of)
    workers = Workers()

    def started(kind: str) -> Any:
        def launch(*arguments: object, options: Any) -> Any:
            found[kind].append((options["num_gpus"], options["scheduling_strategy"]))
            return workers(*arguments, options=options)

        return launch

    gpus = ("learner.gpus=1", "rollout.gpus=1", "rollout.cpus=1", "learner.cpus=2", "rollout.workers=2")
    config = load_config(None, (*SHARED, *gpus))
    fleet = Fleet(config, started("worker"))
    ranks = LearnerGroup(config, started("rank"), fleet.room)
    fleet.start(as_ref("/model"), 0)
    assert found["rank"] == found["worker"] == [(0.5, (room, 0)), (0.5, (room, 1))]
    assert asked == [[{"CPU": 3.0, "GPU": 1.0}] * 2], "one room for both"
    ranks.close()
    assert len(asked) == 1, "it stays for ranks that are made anew"
    fleet.close()
    assert asked[1:] == [room]

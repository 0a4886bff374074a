"""Workers that share their GPUs with the learner, as plain objects: they sleep in its turn, and
wake with the newest weights."""

from __future__ import annotations

from threading import Timer
from typing import Any

import pytest
from fake_workers import Actor, Workers, died, made, polled, ready, receipt, states, task
from fakes import as_ref
from ray.exceptions import RayTaskError

from actors.messages import RankInfo
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
    return [arguments[1] for name, arguments, _ in actor.calls if name == "load"]


def version(number: int) -> WeightVersion:
    return WeightVersion(number, (as_ref(number),), ())


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


def test_there_are_as_many_workers_as_the_ranks_have_room_for():
    fleet, _, _ = awake()
    assert fleet.resize(5) == 2
    fleet, _, _ = awake("rollout.engine.tensor_parallel_size=2", "learner.workers=4")
    assert fleet.resize(5) == 2


class Rooms:
    """Ray's placement groups, and what ranks and workers ask for in them: GPUs and a bundle. What
    a worker is told of its GPUs is in `told`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.removed: list[Any] = []
        self.ranks: list[Any] = []
        self.workers: list[Any] = []
        self.told: list[Any] = []
        self.nodes = {0: "n0", 1: "n1"}
        self.room: Any = object()
        self._made = Workers()
        monkeypatch.setattr(placement, "placement_group", self._group)
        monkeypatch.setattr(placement, "remove_placement_group", self.removed.append)
        monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", self._bundle)
        monkeypatch.setattr(placement, "placement_group_table", lambda room: {"bundles_to_node_id": self.nodes})

    def rank(self, *arguments: object, options: Any) -> Any:
        self.ranks.append((options["num_gpus"], options["scheduling_strategy"]))
        return self._made(*arguments, options=options)

    def worker(self, *arguments: object, options: Any) -> Any:
        self.workers.append((options["num_gpus"], options["scheduling_strategy"]))
        self.told.append(options["runtime_env"]["env_vars"].get("CUDA_VISIBLE_DEVICES"))
        return self._made(*arguments, options=options)

    def _group(self, bundles: Any, **how: Any) -> Any:
        self.asked.append(bundles)
        return self.room

    def _bundle(self, group: Any, placement_group_bundle_index: int) -> int:
        assert group is self.room
        return placement_group_bundle_index


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    return Rooms(monkeypatch)


GPUS = ("learner.gpus=1", "rollout.gpus=1", "rollout.cpus=1", "learner.cpus=2", "rollout.workers=2")


def test_rank_and_worker_of_one_number_have_one_bundle_and_half_of_its_gpu_each(rooms: Rooms) -> None:
    config = load_config(None, (*SHARED, *GPUS))
    fleet = Fleet(config, rooms.worker)
    ranks = LearnerGroup(config, rooms.rank, fleet.room)
    settled(fleet, *map(rank, range(2)))
    fleet.start(as_ref("/model"), 0)
    assert rooms.ranks == rooms.workers == [(0.5, 0), (0.5, 1)]
    assert rooms.told == [None, None]
    assert rooms.asked == [[{"CPU": 3.0, "GPU": 1.0}] * 2], "one room for both"
    ranks.close()
    assert not rooms.removed, "it stays for ranks that are made anew"
    fleet.close()
    assert rooms.removed == [rooms.room]


def rank(number: int, node: str | None = None) -> RankInfo:
    """Of two on each node, which Ray gave the devices in any order."""
    device = str(7 - number % 2)
    return RankInfo(number, "host", 0, 1, node_id=node or f"n{number // 2}", devices=device)


def settled(fleet: Fleet, *ranks: RankInfo) -> None:
    """All ranks say that they have started."""
    assert fleet.room is not None
    fleet.room.settle(ranks)


SPLIT = (*SHARED, *GPUS, "rollout.engine.tensor_parallel_size=2", "learner.workers=4")


def test_a_split_worker_is_told_the_gpus_of_its_ranks_which_have_them_from_ray(rooms: Rooms) -> None:
    config = load_config(None, SPLIT)
    fleet = Fleet(config, rooms.worker)
    fleet.sleep()
    LearnerGroup(config, rooms.rank, fleet.room)
    fleet.start(as_ref("/model"), 0)
    settled(fleet, *map(rank, range(4)))
    assert rooms.ranks == [(1.0, 0), (1.0, 0), (1.0, 1), (1.0, 1)]
    assert rooms.asked == [[{"CPU": 5.0, "GPU": 2.0}] * 2], "of one node each"
    fleet.wake()
    fleet.poll(0.01)
    assert rooms.workers == [(0.0, 0), (0.0, 1)]
    assert rooms.told == ["7,6", "7,6"]


def test_a_split_worker_without_ranks_has_its_gpus_from_ray(rooms: Rooms) -> None:
    config = load_config(None, SPLIT)
    fleet = Fleet(config, rooms.worker)
    ranks = LearnerGroup(config, rooms.rank, fleet.room)
    settled(fleet, *map(rank, range(4)))
    ranks.close()
    fleet.start(as_ref("/model"), 0)
    assert (rooms.workers, rooms.told) == ([(2.0, 0), (2.0, 1)], [None, None])


def test_a_split_worker_whose_bundle_is_elsewhere_now_waits_for_its_ranks(rooms: Rooms) -> None:
    config = load_config(None, SPLIT)
    fleet = Fleet(config, rooms.worker)
    LearnerGroup(config, rooms.rank, fleet.room)
    settled(fleet, *map(rank, range(4)))
    rooms.nodes[1] = "n2"
    fleet.start(as_ref("/model"), 0)
    assert rooms.workers == [(0.0, 0)], "its GPUs there are not known"
    settled(fleet, rank(0), rank(1), rank(2, "n2"), rank(3, "n2"))
    fleet.poll(0.01)
    assert rooms.workers == [(0.0, 0), (0.0, 1)]

"""Weights that workers load, on workers that are plain objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_workers import FAST, Workers, polled, ready, task
from fakes import as_ref
from ray.exceptions import RayTaskError

from cluster.remote.weight_source import WeightVersion
from cluster.rollout.fleet import Fleet
from rapo.config import load_config
from rapo.errors import RoleError, WeightError


def test_a_slow_worker_loads_the_newest_version_next():
    fleet, actors, _ = ready()
    for version in (1, 2, 3):
        fleet.load(WeightVersion(version, (as_ref(version),), ()))
    (first,) = actors[0].in_flight("load")
    first.ok(1)
    polled(fleet)
    assert [arguments[1] for name, arguments, _ in actors[0].calls if name == "load"] == [1, 3]


def test_damaged_weights_are_asked_for_anew_and_end_the_run_if_that_does_not_help():
    fleet, actors, faults = ready()
    asked = []
    fleet.load(WeightVersion(1, (as_ref(),), ()))

    def pump() -> None:
        for _ in range(100):
            fleet.poll(0.01)
            for actor in actors:
                for ref in actor.in_flight("load"):
                    ref.fail(RayTaskError("load", "tb", WeightError("checksum of layer 3")))
            if (version := fleet.take_lost_version()) is not None:
                asked.append(version)
                fleet.load(WeightVersion(1, (as_ref(),), ()))

    with pytest.raises(WeightError, match="checksum"):
        pump()
    assert len(asked) >= 2
    assert set(asked) == {1}
    assert {fault.action for fault in faults} == {"it loads again"}
    fleet.submit(task(0))
    assert not any(a.tickets() for a in actors), "no worker works without verified weights"


def test_a_version_that_is_to_come_anew_is_waited_for():
    fleet, actors, faults = ready()
    fleet.load(WeightVersion(1, (as_ref(),), ()))
    for actor in actors:
        for ref in actor.in_flight("load"):
            ref.fail(RayTaskError("load", "tb", WeightError("checksum of layer 3")))
    for _ in range(50):
        fleet.poll(0.01)
    assert len(faults) == len(actors), "each failed once and did not try again"
    assert not any(actor.in_flight("load") for actor in actors)
    assert fleet.take_lost_version() == 1
    assert fleet.take_lost_version() is None
    with pytest.raises(RoleError, match="within 0 s"):
        fleet.loaded(0.0)
    fleet.load(WeightVersion(1, (as_ref(),), ()))
    assert all(actor.in_flight("load") for actor in actors)


def test_a_wait_for_weights_ends_with_the_reason_why_they_cannot_be_pulled():
    fleet, actors, _ = ready()
    fleet.load(WeightVersion(1, (as_ref(),), ()))
    for actor in actors:
        for ref in actor.in_flight("load"):
            ref.fail(RayTaskError("load", "tb", WeightError("checksum of layer 3")))
    with pytest.raises(WeightError, match="checksum of layer 3"):
        fleet.loaded(5.0)


def test_workers_get_model_folders_from_where_they_find_them():
    workers = Workers()
    fleet = Fleet(load_config(None, FAST), workers, where=lambda folder: Path("s3://bucket/run") / folder.name)
    fleet.start(Path("/run/start"), 0)
    fleet.ready()
    fleet.load_folder(Path("/run/best"), 1)
    polled(fleet)
    asked = [(name, arguments[0]) for name, arguments, _ in workers.made[0].calls if name in ("start", "load_folder")]
    assert asked == [("start", "s3:/bucket/run/start"), ("load_folder", "s3:/bucket/run/best")]

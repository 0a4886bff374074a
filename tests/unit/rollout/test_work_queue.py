"""Tasks that workers get, and those whose worker is lost."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workers import died, polled, ready, receipt, task
from fakes import as_ref
from ray.exceptions import RayTaskError

from cluster.remote.weight_source import WeightVersion
from rapo.errors import ImageError, RoleError


def test_work_goes_to_whoever_has_least_and_comes_back_once():
    fleet, actors, _ = ready()
    for ticket in range(5):
        fleet.submit(task(ticket))
    assert not fleet.poll(0.0)
    assert sorted(map(len, (a.tickets() for a in actors))) == [2, 2], "two at a time on each, one waits"
    actors[0].in_flight("generate")[0].ok(receipt())
    (drawn,) = fleet.poll(1.0)
    assert drawn.task.ticket == 0
    polled(fleet)
    assert len(actors[0].tickets()) == 2
    assert fleet.waiting == 0


def test_what_a_lost_worker_had_is_given_to_others():
    fleet, actors, faults = ready()
    for ticket in range(4):
        fleet.submit(task(ticket))
    fleet.poll(0.0)
    had = actors[0].tickets()
    late = actors[0].in_flight("generate")
    late[0].fail(died())
    polled(fleet)
    assert actors[0].killed
    assert [(fault.role, fault.node, fault.kind) for fault in faults] == [("rollout-0", "n0", "died")]
    late[1].ok(receipt())  # the dead may still speak; nobody listens
    for ref in actors[1].in_flight("generate"):
        ref.ok(receipt())
    drawn = polled(fleet)
    assert len(actors) == 3, "a new worker takes its place"
    for actor in actors[1:]:
        for ref in actor.in_flight("generate"):
            ref.ok(receipt())
    drawn += polled(fleet)
    assert sorted(one.task.ticket for one in drawn) == [0, 1, 2, 3]
    assert set(had) <= {arguments[0].uid for a in actors[1:] for name, arguments, _ in a.calls if name == "generate"}


def test_groups_wait_for_weights_that_are_new_enough():
    fleet, actors, _ = ready()
    fleet.submit(task(0, min_version=1))
    polled(fleet)
    assert fleet.waiting == 1
    fleet.load(WeightVersion(1, (as_ref(),), ()))
    actors[1].in_flight("load")[0].ok(1)
    polled(fleet)
    assert actors[1].tickets() == ["0"], "the worker that was quick; nobody waits for the other"
    assert not actors[0].tickets()


def test_the_first_to_have_loaded_leaves_the_others_their_share_and_waits_for_nobody():
    fleet, actors, _ = ready("rollout.max_groups=16")
    fleet.load(WeightVersion(1, (as_ref(),), ()))
    for ticket in range(8):
        fleet.submit(task(ticket, min_version=1))
    actors[0].in_flight("load")[0].ok(1)
    polled(fleet)
    assert len(actors[0].tickets()) == 4
    drawn = []
    for _ in range(8):  # the other one never comes
        for ref in actors[0].in_flight("generate"):
            ref.ok(receipt(1))
        drawn += polled(fleet, 0.05)
    assert len(drawn) == 8
    assert not actors[1].tickets()


def test_predictions_are_shared_by_those_that_are_still_loading():
    fleet, actors, _ = ready()
    fleet.load_folder(Path("/other"), 0)
    for actor in actors:
        actor.answers["predict"] = lambda records: [r.uid for r in records]
    assert fleet.predictions([task(i).record for i in range(6)]) == [str(i) for i in range(6)]
    assert [sum(name == "predict" for name, _, _ in actor.calls) for actor in actors] == [1, 1]


def test_workers_get_the_bytes_of_images_and_no_paths(tmp_path):
    records = []
    for number in range(5):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(b"image %d" % number)
        records.append(replace(task(number).record, path=path, data=None))
    fleet, actors, _ = ready()
    for actor in actors:
        actor.answers["predict"] = lambda records: [(r.uid, r.path, r.data) for r in records]
    assert fleet.predictions(records) == [(str(number), None, b"image %d" % number) for number in range(5)]


def test_large_images_are_sent_in_parts_and_their_predictions_come_in_order(monkeypatch):
    monkeypatch.setattr("cluster.rollout.tasks._MOST_BYTES", 3)
    sizes = [1, 1, 5, 1, 2, 1]
    records = [replace(task(i).record, data=b"x" * size) for i, size in enumerate(sizes)]
    fleet, actors, _ = ready("rollout.workers=1")
    actors[0].answers["predict"] = lambda records: [r.uid for r in records]
    assert fleet.predictions(records) == [str(i) for i in range(6)]
    sent = [[r.uid for r in arguments[0]] for name, arguments, _ in actors[0].calls if name == "predict"]
    assert sent == [["0", "1"], ["2"], ["3", "4"], ["5"]]


def test_an_image_that_cannot_be_read_ends_the_predictions(tmp_path):
    fleet, _, faults = ready()
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        fleet.predictions([replace(task(0).record, path=tmp_path / "gone.jpg", data=None)])
    assert not faults


def test_a_call_that_kills_worker_after_worker_is_named():
    fleet, _, faults = ready("rollout.workers=1")
    fleet.submit(task(7))

    def pump() -> None:
        for _ in range(400):
            fleet.poll(0.01)
            for worker in list(fleet.workers):
                for ref in worker.actor.in_flight("generate"):
                    worker.worked = True
                    ref.fail(died())

    with pytest.raises(RoleError, match="a group of 7 was under way on 5 rollout workers"):
        pump()
    assert len(faults) == 5
    assert not fleet.workers, "the last one is removed before the error is raised"


def test_an_error_over_the_input_ends_the_run():
    fleet, actors, faults = ready()
    fleet.submit(task(0))
    fleet.poll(0.0)
    holder = next(a for a in actors if a.tickets())
    holder.in_flight("generate")[0].fail(RayTaskError("generate", "tb", ImageError("x.png is gone", reason="io")))
    with pytest.raises(ImageError, match=r"x\.png is gone"):
        polled(fleet)
    assert not faults


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

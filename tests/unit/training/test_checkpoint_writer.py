"""Checkpoints that are written while training goes on: whole, of the step at which they began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_controller import SETTINGS, STEPS, Fleet, Group, no_ray, started

from cluster.remote.faults import Fault
from cluster.training.checkpoint import Checkpoints
from rapo.config import load_config
from rapo.errors import FaultKind, ResourceError, RoleError, StoppedError

__all__ = ["no_ray"]  # a fixture, for this module as well

EVERY = 20
CONFIG = load_config(None, (*SETTINGS, "rapo.watch.on_collapse=warn", "learner.max_failures=2"))


def states(out: Path) -> list[int]:
    return [saved.step for saved in Checkpoints(out / "state", 9).kept()]


def test_steps_go_on_while_a_checkpoint_is_written_and_it_is_that_of_its_own_step(tmp_path):
    Group.looks = 30
    started(tmp_path, Fleet(), config=CONFIG).run()
    assert [step for step, _ in Group.written] == states(tmp_path) == [20, 40, 60, 80]
    assert all(done > step for step, done in Group.written), "the write stopped the steps"
    for step in states(tmp_path):
        folder = tmp_path / "state" / f"step-{step:06}"
        assert (folder / "learner" / "steps").read_text() == str(step)
        assert json.loads((folder / "state.json").read_text())["window"]["used"] == 2 * step
    assert started(tmp_path, Fleet(), resume_at=80, config=CONFIG).run().steps == STEPS


def test_a_slow_write_is_waited_for_by_the_next_checkpoint_and_by_the_end(tmp_path):
    Group.looks = 10**4
    started(tmp_path, Fleet(), config=CONFIG).run()
    assert states(tmp_path) == [20, 40, 60, 80]


def test_a_checkpoint_that_is_not_whole_does_not_count(tmp_path):
    """The driver dies while the second is written."""

    class Killed(Exception):
        pass

    Group.failures = [None, Killed()]
    with pytest.raises(Killed):
        started(tmp_path, Fleet(), config=CONFIG).run()
    assert [path.name for path in (tmp_path / "state").glob("*40*")] == [".step-000040.partial"]
    assert started(tmp_path, Fleet(), resume_at=20, config=CONFIG).run().steps == STEPS
    assert {path.name for path in (tmp_path / "state").iterdir()} == {f"step-0000{step}" for step in (20, 40, 60, 80)}


def test_a_write_that_fails_is_told_of_and_made_up_for_after_the_next_step(tmp_path):
    Group.failures = [None, RoleError("learner rank 1 died", kind=FaultKind.DIED)]
    faults: list[Fault] = []
    controller = started(tmp_path, Fleet(), config=CONFIG)
    controller._writer._report = faults.append
    controller.run()
    assert [(fault.role, fault.kind) for fault in faults] == [("checkpoint", "died")]
    (again,) = set(states(tmp_path)) - {20, 60, 80}
    assert 40 < again <= 42
    assert not list((tmp_path / "state").glob(".*")), "what was left of the failed one is gone"


def test_writes_that_fail_again_and_again_end_the_run(tmp_path):
    Group.failures = [RoleError(f"no {number}") for number in range(9)]
    with pytest.raises(RoleError, match="no 2"):
        started(tmp_path, Fleet(), config=CONFIG).run()
    assert states(tmp_path) == []


def test_a_full_disk_ends_the_run(tmp_path):
    Group.failures = [None, ResourceError("the disk is full")]
    with pytest.raises(ResourceError, match="disk is full"):
        started(tmp_path, Fleet(), config=CONFIG).run()
    assert states(tmp_path) == [20]


@pytest.mark.parametrize("looks", [1, 500])
def test_a_run_that_is_asked_to_stop_stops_when_its_state_is_whole(tmp_path, looks):
    Group.looks = looks
    controller: Any = started(tmp_path, Fleet(), config=CONFIG)
    with pytest.raises(StoppedError):
        controller.run(lambda: controller.step == EVERY + 1)
    assert states(tmp_path) == [EVERY, EVERY + 1]

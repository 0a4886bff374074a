"""The number of learner ranks by the room that there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.learner import world
from cluster.learner.world import LearnerWorld
from cluster.pipeline.stages.rapo import RapoStage
from rapo.config import Config, load_config
from rapo.errors import ConfigError, FaultKind, RoleError, StoppedError

NO_ROOM = RoleError("the cluster had no room for the learner ranks.", kind=FaultKind.NO_ROOM)


class Cluster:
    """Room for so many ranks; `asked` are the requests that are open."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def request(self, name: str, bundles: list[Any], labels: Any, strategy: str) -> int:
        self.asked.append(len(bundles))
        return len(bundles)

    def has_room(self, group: int, timeout_s: float = 0.0) -> bool:
        return group <= self.room

    def release(self, group: int | None) -> None:
        if group is not None:
            self.asked.remove(group)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(0)
    monkeypatch.setattr(world, "request_placement", made.request)
    monkeypatch.setattr(world, "has_room", made.has_room)
    monkeypatch.setattr(world, "release", made.release)
    return made


def config(workers: int, least: int | None) -> Config:
    given = [] if least is None else [f"learner.min_workers={least}"]
    return load_config(None, [f"learner.workers={workers}", *given])


@pytest.mark.parametrize("room", range(2, 16))
def test_as_many_ranks_as_there_is_room_for(cluster: Cluster, room: int) -> None:
    notes: list[str] = []
    cluster.room = room
    with LearnerWorld(config(16, 2), notes.append) as tried:
        assert tried.config.learner.workers == 16
        tried.shrink(NO_ROOM)
        assert tried.config.learner.workers == room
        assert tried.config.rollout == config(16, 2).rollout
        assert cluster.asked == [16 - room], "the room of the others stays asked for"
    assert cluster.asked == []
    assert f"{room} of 16 learner ranks" in notes[0]


@pytest.mark.parametrize(("least", "room"), [(None, 3), (3, 2), (4, 3)])
def test_a_run_that_may_not_go_on_with_fewer_ends_with_the_error(
    cluster: Cluster, least: int | None, room: int
) -> None:
    cluster.room = room
    with LearnerWorld(config(4, least), pytest.fail) as tried, pytest.raises(RoleError, match="no room"):
        tried.shrink(NO_ROOM)
    assert cluster.asked == []


def test_it_grows_once_the_missing_ranks_have_room(cluster: Cluster) -> None:
    notes: list[str] = []
    cluster.room = 1
    with LearnerWorld(config(4, 1), notes.append) as tried:
        assert not tried.can_grow(), "nothing is missing"
        tried.shrink(NO_ROOM)
        assert not tried.can_grow()
        cluster.room = 3
        assert tried.can_grow()
        tried.grow()
        assert tried.config == config(4, 1)
        assert not tried.can_grow()
        tried.shrink(NO_ROOM)  # after a step of all ranks it may grow again
        assert cluster.asked == [1]
    assert "4 of 4" in notes[1]


def test_it_does_not_swing_where_all_ranks_together_find_no_room(cluster: Cluster) -> None:
    cluster.room = 3
    with LearnerWorld(config(4, 1), lambda note: None) as tried:
        tried.shrink(NO_ROOM)
        assert tried.can_grow()
        tried.grow()
        tried.shrink(NO_ROOM)  # without a step in between
        assert tried.config.learner.workers == 3
        assert not tried.can_grow()
        assert cluster.asked == []


def test_more_than_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_workers = 3 is above learner\.workers = 2"):
        config(2, 3)


class Scripted(RapoStage):
    """Attempts that end as planned; `tried` has their numbers of ranks."""

    plan: Iterator[Any]
    tried: list[int]

    def _attempt(self, world: LearnerWorld, checkpoints: Any) -> Any:
        self.tried.append(world.config.learner.workers)
        ended = next(self.plan)
        if isinstance(ended, Exception):
            raise ended
        return ended


def stage(tmp_path: Path, plan: list[Any]) -> Scripted:
    Scripted.plan, Scripted.tried = iter(plan), []
    nothing: Any = None
    return Scripted(config(4, 1), nothing, tmp_path, tmp_path / "out", nothing, nothing, lambda note: None)


def test_attempts_follow_the_world(cluster: Cluster, tmp_path: Path) -> None:
    cluster.room = 2
    result = stage(tmp_path, [NO_ROOM, None, NO_ROOM, "done"]).train()
    assert result == "done"
    assert Scripted.tried == [4, 2, 4, 2]
    assert cluster.asked == []


@pytest.mark.parametrize("error", [RoleError("late", kind=FaultKind.LATE), StoppedError("SIGTERM")])
def test_what_is_no_lack_of_room_ends_the_stage(cluster: Cluster, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        stage(tmp_path, [error]).train()
    assert Scripted.tried == [4]

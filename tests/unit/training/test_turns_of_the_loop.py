"""The loop of a colocated run, on roles that are plain objects: it never waits for the side whose
turn it is not, and uses every group once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes import as_ref
from test_controller import Fleet, Group, Rewards, no_ray, records

from cluster.files.jsonl import read_jsonl
from cluster.learner.colocated import ColocatedLearners
from cluster.remote.waiting import Waiting
from cluster.remote.weight_source import Receivers, WeightVersion
from cluster.rollout.tasks import RolloutResult
from cluster.training.controller import LEDGER, Controller, TrainingData
from cluster.training.listener import TrainingListener
from rapo.config import load_config
from rapo.errors import FaultKind, RoleError

__all__ = ["no_ray"]

SETTINGS = (
    *("rollout.placement=colocate", "rapo.max_staleness=0", "rapo.steps=12", "rapo.images_per_step=4"),
    *("rapo.checkpoint_every=5", "learner.snapshot_every=9", "rapo.watch.enabled=false", "rapo.select=last"),
)


class SleepingFleet(Fleet):
    """A fleet that samples while it is awake. It loses the version of step 3 once."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = False
        self.waking_seconds = 0.0
        self.turns: list[str] = []
        self.newest, self.lost = 0, [3]
        self.idle = 0

    def sleep(self) -> None:
        self.asleep = True
        self.turns.append("ranks")

    def wake(self) -> None:
        self.asleep = False
        self.turns.append("workers")

    def load(self, weights: WeightVersion) -> None:
        self.newest = weights.version

    def take_lost_version(self) -> int | None:
        if not self.asleep and self.newest in self.lost:
            self.lost.remove(self.newest)
            return self.newest
        return None

    def poll(self, timeout_s: float, others: Any = ()) -> list[RolloutResult]:
        if self.asleep:
            self.idle += 1
            assert self.idle < 50, "nothing ends this wait"
            return []
        self.idle = 0
        if self.newest in self.lost:
            return []
        return super().poll(timeout_s, others)


class Ranks(Group):
    """Ranks that use their GPUs in their turn only. The first ones die in their step 7."""

    fleet: SleepingFleet

    def _use(self) -> None:
        assert self.fleet.asleep

    def start(self, model_dir: Path, splits: int) -> list[Any]:
        self._use()
        return []

    def ready(self, started: Sequence[Any]) -> Waiting[list[Any]]:
        yield []
        return []

    def step(self, shares: Any, images: Any) -> Waiting[dict[str, float]]:
        self._use()
        if Group.made == 1 and self.step_done == 6:
            raise RoleError("learner rank 1 died", kind=FaultKind.DIED)
        return (yield from super().step(shares, images))

    def park(self) -> Waiting[None]:
        self._use()
        yield [as_ref("a rank that parks")]

    def states(self) -> list[Any]:
        self._use()
        return super().states()

    def restore(self, states: Sequence[Any]) -> Waiting[int]:
        self._use()
        yield []
        self.step_done = states[0]
        return self.step_done

    def publish(self, version: int, receivers: Receivers | None = None, *, beside: bool = True) -> WeightVersion:
        self._use()
        return super().publish(version, receivers, beside=beside)


def test_the_loop_changes_turns_and_loses_nothing(tmp_path: Path) -> None:
    config, fleet, faults, Group.made = load_config(None, SETTINGS), SleepingFleet(), list[Any](), 0
    Ranks.fleet = fleet
    learners = ColocatedLearners(config, as_ref(Ranks), fleet, faults.append)
    controller = Controller(
        config,
        TrainingData(records(8), []),
        as_ref(fleet),
        learners,
        as_ref(Rewards()),
        tmp_path,
        tmp_path,
        TrainingListener(),
    )
    assert controller.run().steps == 12
    assert fleet.turns == ["ranks", "workers"] * (len(fleet.turns) // 2) + ["ranks"]
    assert len(fleet.turns) == 2 * 12 + 1, "one turn of the ranks a step, and one for the version that was lost"
    ledger: list[Any] = read_jsonl(tmp_path / LEDGER)
    used = [ticket for row in ledger for ticket in row["used"]]
    assert sorted(used) == list(range(48))
    assert [step for step, _ in Group.written] == [5, 10]
    assert [fault.kind for fault in faults] == ["died"]
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert all({"sleep_s", "wake_s"} <= row.keys() for row in rows)

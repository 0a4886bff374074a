"""Weights by broadcast between real learner ranks and real rollout workers, over gloo."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import xxhash

from actors.rollout import RolloutWorker
from bench.support.roles import RandomScorer
from cluster.files.jsonl import read_jsonl
from cluster.learner.group import LearnerGroup
from cluster.remote.actors import Launcher
from cluster.remote.faults import Fault
from cluster.remote.waiting import finish
from cluster.rollout.fleet import Fleet
from cluster.training.controller import TrainingData
from cluster.training.listener import TrainingListener
from cluster.training.session import Launchers, training_session
from rapo.aescot.writer import phrases
from rapo.config import Config, load_config
from rapo.families.tiny_model import build_tiny_model
from rapo.policy.broadcast import weight_broadcast
from rapo.records import Meeting
from tests.integration.test_roles import records
from tests.limits import PATIENCE_S
from tests.small import SMALL

pytestmark = pytest.mark.integration

BROADCAST = ("rollout.weight_transport=broadcast", "rollout.broadcast_timeout_s=20", "learner.chunk_mib=1")


class ProbedWorker(RolloutWorker):
    """Tells the checksum of all its engine's parameters, and may be killed while it receives."""

    async def checksum(self) -> str:
        engine: Any = self._engine.started.result()
        (found,) = engine._llm.collective_rpc(_checksum)
        return str(found)

    async def received(self) -> int:
        """How many versions have come by broadcast."""
        return getattr(self, "_received", 0)

    async def receive(self, version: int, meeting: Meeting, member: int) -> int:
        held = await super().receive(version, meeting, member)
        self._received = await self.received() + 1
        return held

    async def die_while_receiving(self) -> None:
        true = weight_broadcast.receive

        def deadly(*arguments: Any) -> Iterator[Any]:
            tensors = true(*arguments)
            yield next(tensors)
            os.kill(os.getpid(), signal.SIGKILL)

        weight_broadcast.receive = deadly  # type: ignore[assignment]


def _checksum(worker: Any) -> str:
    digest = xxhash.xxh3_128()
    for name, parameter in sorted(worker.model_runner.get_model().named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().numpy())
    return str(digest.hexdigest())


class Reports(TrainingListener):
    """Keeps the faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, fault: Fault) -> None:
        self.faults.append(fault)


REPORTS = Reports()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of the same sizes: what the workers start on, and what the learner publishes."""
    base = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        build_tiny_model(base / f"{seed}", load_config(None, SMALL).policy.embedded, seed, phrases())
    return base / "0", base / "1"


def configured(*overrides: str) -> Config:
    return load_config(None, (*SMALL, *BROADCAST, *overrides))


@pytest.fixture(scope="module")
def fleet(local_ray: None, folders: tuple[Path, Path]) -> Iterator[Fleet]:
    """Two workers for all tests, each of which begins with `at_start`."""
    workers = Fleet(configured(), Launcher(ProbedWorker), REPORTS)
    workers.start(folders[0], 0)
    workers.ready()
    yield workers
    workers.close()


def at_start(fleet: Fleet, start: Path) -> list[int]:
    """Load the first weights; how many versions each worker has received until now."""
    fleet.load_folder(start, 0)
    fleet.loaded(60)
    REPORTS.faults.clear()
    return asked(fleet, "received")


def asked(fleet: Fleet, method: str) -> list[Any]:
    calls = [getattr(worker.actor, method).remote() for worker in fleet.workers]
    return ray.get(calls, timeout=PATIENCE_S)


def load(fleet: Fleet, learners: LearnerGroup, version: int, *, by_broadcast: bool) -> None:
    weights = learners.publish(version, fleet.receivers() if by_broadcast else None)
    fleet.load(weights)
    finish(learners.published(weights))
    fleet.loaded(120)


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_broadcast_is_what_the_object_store_has_and_a_death_on_the_way_costs_one_version(
    fleet: Fleet, folders: tuple[Path, Path], stage: int
) -> None:
    start, trained = folders
    received = at_start(fleet, start)
    learners = LearnerGroup(configured(f"learner.zero_stage={stage}"))
    try:
        ranks = finish(learners.ready(learners.start(trained)))
        assert len(ranks) == 2
        assert all(rank.chunks for rank in ranks), "both send"
        first = asked(fleet, "checksum")
        load(fleet, learners, 1, by_broadcast=False)
        stored = asked(fleet, "checksum")
        assert stored[0] == stored[1] != first[0]
        fleet.load_folder(start, 0)
        fleet.loaded(60)
        assert asked(fleet, "checksum") == first
        load(fleet, learners, 2, by_broadcast=True)
        assert asked(fleet, "checksum") == stored
        assert asked(fleet, "received") == [count + 1 for count in received]
        if stage == 3:
            a_receiver_dies(fleet, learners, stored)
    finally:
        learners.close()


def a_receiver_dies(fleet: Fleet, learners: LearnerGroup, stored: list[str]) -> None:
    """Both workers get the version that one of them died at, and the next one goes to both
    again."""
    ray.get(fleet.workers[1].actor.die_while_receiving.remote(), timeout=PATIENCE_S)
    stays, lost = (worker.number for worker in fleet.workers)
    before, _ = asked(fleet, "received")
    load(fleet, learners, 3, by_broadcast=True)
    assert [fault.kind for fault in REPORTS.faults if fault.action == "replaced"] == ["died"]
    fleet.ready()
    fleet.loaded(120)
    assert {worker.number for worker in fleet.workers} == {stays, lost + 1}
    assert asked(fleet, "checksum") == stored, "both pulled it from the object store"
    assert asked(fleet, "received") == [before, 0]
    faults = len(REPORTS.faults)
    load(fleet, learners, 4, by_broadcast=True)
    assert asked(fleet, "checksum") == stored
    assert asked(fleet, "received") == [before + 1, 1], "the new worker is in the next group"
    assert len(REPORTS.faults) == faults


@pytest.mark.long
def test_a_run_is_the_same_with_either_transport(
    fleet: Fleet, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of the real loop: the same losses, gradients and weights to the last bit."""
    runs = []
    for transport in ("broadcast", "object_store"):
        received = at_start(fleet, folders[0])
        config = configured(f"rollout.weight_transport={transport}", "rapo.steps=2", "rapo.select=last")
        out = tmp_path / transport
        out.mkdir()
        if transport == "object_store":
            monkeypatch.setattr(fleet, "receivers", lambda: None)
        launchers = Launchers(Launcher(ProbedWorker), scorer=Launcher(RandomScorer))
        data = TrainingData(records(16), [])
        with training_session(config, data, folders[0], out, fleet=fleet, launchers=launchers) as controller:
            outcome = controller.run()
            fleet.loaded(60)
        versions = 2 * (transport == "broadcast")
        assert asked(fleet, "received") == [count + versions for count in received]
        rows = [
            {key: row[key] for key in ("loss", "grad_norm", "entropy")} for row in read_jsonl(out / "metrics.jsonl")
        ]
        runs.append((rows, (outcome.folder / "model.safetensors").read_bytes()))
        assert not REPORTS.faults
    assert runs[0] == runs[1]
    assert len({row["grad_norm"] for row in runs[0][0]}) == 2

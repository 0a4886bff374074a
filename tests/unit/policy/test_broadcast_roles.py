"""A learner rank and a rollout worker of the real classes: what one sends, the other loads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.learner import Learner
from actors.rollout import RolloutWorker
from rapo.config import load_config
from rapo.errors import WeightError
from rapo.inference.engine_thread import EngineThread
from rapo.policy.broadcast.weight_group import WeightGroup
from rapo.policy.trainer import PolicyTrainer
from rapo.policy.weight_packing import unpack
from rapo.records import Meeting

pytestmark = pytest.mark.usefixtures("world")


class Engine:
    """Copies what it loads."""

    busy = False

    def __init__(self) -> None:
        self.version: int | None = 0
        self.held: dict[str, torch.Tensor] = {}

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self.version = None
        self.held = {name: tensor.clone() for name, tensor in weights}
        self.version = version


def test_a_worker_holds_the_bits_that_the_object_store_has(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("rollout.weight_transport=broadcast", "rollout.broadcast_timeout_s=5", "learner.chunk_mib=1")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    config = load_config(None, settings)
    learner, worker, engine = Learner(0, config), RolloutWorker("rollout-0", config), Engine()
    learner._started = PolicyTrainer(str(tiny_model), config, world=1)
    made: Any = engine
    worker._engine_thread = EngineThread(lambda: made)
    worker._weight_group = WeightGroup(5.0)
    store = learner._host_weights()
    assert store is not None
    with ThreadPoolExecutor(1) as pool:
        for version in (1, 2):
            if version == 2:
                learner._trainer.snapshot(2)
            meeting = Meeting(*store, 1, 2)
            sent = pool.submit(learner.send_now, version, meeting, 0)
            assert asyncio.run(worker.receive(version, meeting, 1)) == version
            assert sent.result(10.0) is None
            *chunks, manifest = learner._trainer.publish(version)
            stored = dict(unpack(manifest, chunks))
            assert list(engine.held) == list(stored)
            assert all(torch.equal(engine.held[name], tensor) for name, tensor in stored.items())

        # A member that never comes: the rank says so and goes on, the worker keeps what it has.
        missing = Meeting(*store, 2, 3)
        sent = pool.submit(learner.send_now, 3, missing, 0)
        with pytest.raises(WeightError, match="did not come"):
            asyncio.run(worker.receive(3, missing, 1))
        assert "did not come" in str(sent.result(10.0))
        assert engine.version == 2
    worker._engine.close()


def test_a_few_ranks_that_lie_apart_share_a_broadcast_version(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PolicyTrainer(str(tiny_model), load_config(None, ["rollout.weight_transport=broadcast"]), world=1)
    whole = made._share_of_weights()
    monkeypatch.setattr(PolicyTrainer, "_chunk_bytes", max(whole.values()))

    def shares(world: int) -> list[dict[str, int]]:
        made._world = world
        found = []
        for rank in range(world):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            found.append(made._share_of_weights())
        assert {name: size for share in found for name, size in share.items()} == whole
        assert sum(map(len, found)) == len(whole)
        return found

    assert all(shares(2))
    assert [rank for rank, share in enumerate(shares(8)) if share] == [0, 2, 4, 6]

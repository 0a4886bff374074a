"""SharedGpus: which GPUs the ranks and the split workers of a colocated run see, on a Ray that is
told it has four.

A program, because the tests' own Ray has no GPUs. It prints JSON: the GPUs of each process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import ray

from actors.messages import ProcessInfo, RankInfo
from cluster.learner.group import LearnerGroup
from cluster.remote.actors import Launcher
from cluster.remote.waiting import finish
from cluster.rollout.fleet import Fleet
from rapo.config import Config, load_config

SETTINGS = (
    *("rollout.placement=colocate", "rapo.max_staleness=0", "rollout.engine.tensor_parallel_size=2"),
    *("learner.workers=4", "learner.gpus=1", "rollout.workers=2", "rollout.gpus=1"),
)


class Rank:
    """A learner rank without a model."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"max_restarts": 0}

    def __init__(self, rank: int, config: Config) -> None:
        self._rank = rank

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def start(self, model_dir: str, address: str, port: int, splits: int) -> RankInfo:
        node = ray.get_runtime_context().get_node_id()
        return RankInfo(self._rank, "here", os.getpid(), 1, node_id=node, devices=os.environ["CUDA_VISIBLE_DEVICES"])

    def ping(self) -> float:
        return 0.0


class Worker:
    """A rollout worker without an engine."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"max_concurrency": 10}

    def __init__(self, name: str, config: Config) -> None:
        self._node = ray.get_runtime_context().get_node_id()

    async def hello(self) -> ProcessInfo:
        return ProcessInfo(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid(), self._node)

    async def start(self, model_dir: str, version: int) -> None:
        return None

    async def ping(self) -> None:
        return None


def run(config: Config) -> dict[str, list[str]]:
    fleet = Fleet(config, Launcher(Worker))
    fleet.sleep()
    found: dict[str, list[str]] = {}
    for name in ("ranks", "ranks made anew"):
        group = LearnerGroup(config, Launcher(Rank), fleet.room)
        found[name] = [rank.devices for rank in finish(group.ready(group.start(Path("/"))))]
        if name == "ranks":
            group.close()
    fleet.start(Path("/"), 0)
    fleet.wake()
    found["workers"] = [worker.node for worker in fleet.ready()]
    group.close()
    fleet.close()
    alone = Fleet(config, Launcher(Worker))
    alone.start(Path("/"), 0)
    found["workers without ranks"] = [worker.node for worker in alone.ready()]
    alone.close()
    return found


if __name__ == "__main__":
    # Ray starts the actors by the module's name, which a program does not have.
    from tests.integration.nodes.shared_gpus import run as imported

    ray.init(
        address="local", num_cpus=16, num_gpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1]
    )
    try:
        print(json.dumps(imported(load_config(None, SETTINGS))))  # noqa: T201
    finally:
        ray.shutdown()

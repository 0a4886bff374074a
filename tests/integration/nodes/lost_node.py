"""LostNode: learner ranks without a model on a cluster of several raylets, one of which is lost.

A program, because the tests' own Ray has one node. It prints JSON: whether ranks had second copies,
the faults, and how many steps all ranks together have behind them in the end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from actors.messages import RankFigures, RankInfo
from cluster.learner.group import LearnerGroup
from cluster.learner.recovery import RecoveringLearnerGroup
from cluster.remote.actors import Launcher
from cluster.remote.faults import Fault
from cluster.remote.waiting import finish
from rapo.config import Config, load_config
from rapo.errors import RoleError

SETTINGS = ("learner.workers=2", "learner.cpus=1", "learner.placement=strict_spread", "learner.snapshot_every=3")
STORE, STATE, COPIED_S = 100 * 2**20, 2**20, 120.0


class Rank:
    """A learner rank whose training state is the number of its steps."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]] = {"max_restarts": 0}

    def __init__(self, rank: int, config: Config) -> None:
        self._rank, self._steps = rank, 0

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def start(self, model_dir: str, address: str, port: int, splits: int) -> RankInfo:
        return RankInfo(self._rank, "here", os.getpid(), 1, node_id=ray.get_runtime_context().get_node_id())

    def ping(self) -> float:
        return 0.0

    def step(self, share: Any, uids: Sequence[str]) -> RankFigures:
        self._steps += 1
        return RankFigures.of({"tokens": 1.0, "learning_rate": 0.0, "loss": float(self._steps)}, 0.0)

    def copy_state(self) -> int:
        return self._steps

    def state(self, copied: int) -> tuple[int, dict[str, NDArray[np.uint8]]]:
        return copied, {str(self._rank): np.full(STATE, copied, np.uint8)}

    def restore(self, *parts: Mapping[str, NDArray[np.uint8]]) -> int:
        self._steps = int(parts[-1][str(self._rank)][-1])
        return self._steps


def run(buddy: str) -> dict[str, Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    try:
        return lose_a_node(cluster, buddy)
    finally:
        ray.shutdown()
        cluster.shutdown()


def lose_a_node(cluster: Cluster, buddy: str) -> dict[str, Any]:
    nodes = {}
    for _ in range(3):
        node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        nodes[node.node_id] = node
    ray.init(address=cluster.address, log_to_driver=False)
    config = load_config(None, [*SETTINGS, f"learner.snapshot_buddy={buddy}"])
    faults: list[Fault] = []
    learners = RecoveringLearnerGroup(config, lambda: LearnerGroup(config, Launcher(Rank)), faults.append)
    ranks = finish(learners.ready(learners.start(Path("/"))))
    share: Any = ray.put(None)

    def step() -> float:
        return finish(learners.step([share, share], [{}, {}]))["loss"]

    for _ in range(4):
        step()
    deadline = time.monotonic() + COPIED_S
    while learners._snapshots[-1].copying or not learners._snapshots[-1].ended():
        assert time.monotonic() < deadline, "the second copies are not made"
        time.sleep(0.2)
    copied = len(learners._snapshots[-1].copies or ())
    step()  # the older snapshot, to which ranks could go back without any copy, is let go of
    assert len(learners._snapshots) == 1
    cluster.remove_node(nodes[ranks[1].node_id], allow_graceful=False)
    try:
        steps = step()
    except RoleError as error:
        return {"copied": copied, "error": str(error)}
    parts = learners._snapshots[0].states or ()
    read = [int(ray.get(files, timeout=COPIED_S)[str(rank)][0]) for rank, (_, files) in enumerate(parts)]
    return {"copied": copied, "faults": [str(fault) for fault in faults], "steps": steps, "read": read}


if __name__ == "__main__":
    import sys

    # Ray starts the actors by the module's name, which a program does not have.
    from tests.integration.nodes.lost_node import run as imported

    print(json.dumps(imported(sys.argv[1])))  # noqa: T201

"""Placement: room for the processes of a role, asked for together.

- Ranks that work together are placed together or not at all: half of them placed would hold what
  the other half waits for.
- Ranks and the worker that share GPUs have a bundle together, so that all of them are on one node.
- A request tells an autoscaler what is missing. Where nothing comes within the limit, the error
  says what was asked for and what the cluster has.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.messages import RankInfo
from cluster.remote.needs import shared_need
from rapo.config import Config
from rapo.config.types import Strategy
from rapo.errors import FaultKind, RoleError

#: What one process takes, by Ray's names of resources.
Bundle = Mapping[str, float]

#: One wait of Ray's, during which no signal is handled: neither Ctrl-C nor SIGTERM.
_LOOK_S = 1


def request_placement(
    name: str, bundles: Sequence[Bundle], labels: Mapping[str, str], strategy: Strategy = "pack"
) -> PlacementGroup | None:
    """Ask for room, all of it on nodes with `labels`; returns at once. None where the bundles are
    empty, which Ray does not take."""
    wanted = [dict(one) for one in bundles if one]
    if not wanted:
        return None
    # Names are unique in a cluster, where other runs may have the same roles.
    unique = f"rapo-{name}-{secrets.token_hex(4)}"
    selector = [dict(labels)] * len(wanted)
    return placement_group(wanted, strategy=strategy.upper(), name=unique, bundle_label_selector=selector)


def await_placement(group: PlacementGroup | None, *, role: str, keys: str, timeout_s: float) -> None:
    """Wait until a placement has its room. Raises `RoleError` after `timeout_s`; `keys` are the
    settings that ask for less."""
    if group is None:
        return
    if has_room(group, timeout_s):
        return
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in _total(group.bundle_specs).items())
    there = ray.cluster_resources()
    offered = ", ".join(f"{there.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
    raise RoleError(
        f"the cluster had no room for the {role} within {timeout_s:.0f} s: together they ask for {wanted}, and the cluster "
        f"has {offered} in all. Add nodes, or lower {keys}; `ray status` shows what is taken.",
        kind=FaultKind.NO_ROOM,
    )


def has_room(group: PlacementGroup, timeout_s: float = 0.0) -> bool:
    """Whether a placement has its room, now or within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not group.wait(timeout_seconds=_LOOK_S if timeout_s else 0):
        if time.monotonic() >= deadline:
            return False
    return True


def place(group: PlacementGroup | None, index: int, labels: Mapping[str, str]) -> dict[str, object]:
    """Ray's options of an actor in bundle `index` of a group; without one, on a node with
    `labels`."""
    if group is None:
        return {"label_selector": labels}
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)}


class SharedRoom:
    """The bundles of a colocated run: each is for a rollout worker and as many learner ranks as the
    worker's model has parts.

    - They are asked for with the first use, and kept while ranks and workers come and go, until
      `close`.
    - A rank and a worker that share one GPU ask Ray for half of it each. Ray gives nobody halves of
      several GPUs: where a model is split, each rank asks for a whole one, and the worker for none.
      It is told those of its ranks, or asks for all of them while there are no ranks.
    """

    def __init__(self, config: Config) -> None:
        self._need = shared_need(config)
        self._parts = config.rollout.engine.tensor_parallel_size
        share = 0.5 if self._parts == 1 else 1.0
        #: What a rank asks Ray for.
        self.rank_gpus = config.learner.gpus * share
        self._worker_gpus = config.rollout.worker_gpus * share
        self._ranks: Sequence[RankInfo] = ()
        self._asked = False
        self._group: PlacementGroup | None = None

    @property
    def size(self) -> int:
        """The number of bundles."""
        return self._need.count

    def bundle_of(self, rank: int) -> int:
        """The bundle of a learner rank."""
        return rank // self._parts

    def settle(self, ranks: Sequence[RankInfo]) -> None:
        """All ranks have started, or have left where there are none."""
        self._ranks = ranks

    def takes_worker(self, bundle: int) -> bool:
        """Whether a worker can be placed in a bundle. One that has gone to another node waits for
        its ranks, without which nobody knows its GPUs."""
        ranks = self._ranks_of(bundle)
        if not ranks or self._group is None:
            return True
        nodes: Mapping[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        return all(rank.node_id == nodes.get(bundle) for rank in ranks)

    def worker_gpus(self, bundle: int) -> tuple[float, dict[str, str]]:
        """What the worker of a bundle asks Ray for, and the variable that tells it its GPUs where
        Ray does not."""
        ranks = self._ranks_of(bundle)
        if ranks:
            return 0.0, {"CUDA_VISIBLE_DEVICES": ",".join(rank.devices for rank in ranks)}
        return self._worker_gpus, {}

    def _ranks_of(self, bundle: int) -> Sequence[RankInfo]:
        """The ranks whose GPUs the worker of a bundle is told."""
        if self._parts == 1 or not self._worker_gpus:
            return ()
        return [rank for rank in self._ranks if self.bundle_of(rank.rank) == bundle]

    @property
    def group(self) -> PlacementGroup | None:
        """None where the bundles are empty."""
        if not self._asked:
            need, self._asked = self._need, True
            self._group = request_placement("shared", [need.resources] * need.count, need.labels, need.strategy)
        return self._group

    def close(self) -> None:
        release(self._group)
        self._group, self._asked, self._ranks = None, False, ()


def release(group: PlacementGroup | None) -> None:
    """Give the room back."""
    if group is not None:
        remove_placement_group(group)


def _total(bundles: Sequence[Bundle]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in bundles:
        for name, amount in one.items():
            total[name] = total.get(name, 0.0) + amount
    return total

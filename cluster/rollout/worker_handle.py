"""One rollout worker as the fleet knows it: its state, its place in the cluster, what it has under
way."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rapo.config import Config, RolloutConfig
from rapo.inference.environment import engine_environment


class WorkerState(Enum):
    """A worker's way through the fleet. Work is given to `READY` workers only."""

    PENDING = "pending"  # asked for; the cluster has no room yet, or the process is starting
    CREATING = "creating"  # its process is there, its engine starts
    HEALTHY = "healthy"  # the engine runs, on weights that the fleet does not use
    SYNCING = "syncing"  # it loads the fleet's weights
    READY = "ready"  # it has verified weights that the fleet uses
    DRAINING = "draining"  # it finishes what it has and gets nothing more
    GONE = "gone"


#: States of a worker that will do work, or does.
COMING = (WorkerState.PENDING, WorkerState.CREATING, WorkerState.HEALTHY, WorkerState.SYNCING)


@dataclass(eq=False, slots=True)
class WorkerHandle:
    """`held` is the weight version that it has verified, None where it has none. `calls` are its
    groups under way with the time by which each must be done, oldest first."""

    number: int
    actor: Any
    place: PlacementGroup | None
    state: WorkerState = WorkerState.PENDING
    node: str = "no node yet"
    pid: int = 0
    held: int | None = None
    serial: int = -1  # of the weights it holds, see `Fleet`
    loading: tuple[int, float] | None = None  # serial and deadline of the load under way
    load_failures: int = 0
    calls: dict[Any, float] = field(default_factory=dict)
    deadline: float = float("inf")  # of the present state
    asked: float | None = None  # when it was asked whether it is there, None where it has answered
    answered: float = 0.0
    groups: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    worked: bool = False
    times: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"rollout worker {self.number} on {self.node}"

    def move(self, state: WorkerState) -> None:
        self.state = state
        self.times.setdefault(state.value, time.time())

    def row(self) -> dict[str, Any]:
        """What `rapo status` shows."""
        return {
            "name": f"rollout-{self.number}",
            "state": self.state.value,
            "node": self.node,
            "pid": self.pid,
            "version": self.held,
            "running": len(self.calls),
            "groups": self.groups,
            "tokens": self.tokens,
            "busy_seconds": self.busy_s,
            "since": self.times[self.state.value],
        }

    def joining(self) -> dict[str, float]:
        """Seconds of each part of its way from being asked for to its first group."""
        marks = ["pending", "creating", "healthy", "ready", "routed"]
        names = ["process", "engine", "weights", "first_group"]
        known = [
            (name, self.times.get(a), self.times.get(b)) for name, (a, b) in zip(names, pairwise(marks), strict=True)
        ]
        return {name: end - begin for name, begin, end in known if begin is not None and end is not None}

    def overdue(self, now: float, limits: RolloutConfig) -> tuple[str, str] | None:
        """What it is late with, and the kind of fault that this is; None where it is late with
        nothing."""
        if self.deadline < now:
            return f"did not start within {limits.start_timeout_s:.0f} s (rollout.start_timeout_s)", "late"
        if self.loading is not None and self.loading[1] < now:
            return f"did not load its weights within {limits.load_timeout_s:.0f} s (rollout.load_timeout_s)", "late"
        if self.calls and (oldest := next(iter(self.calls.items())))[1] < now:
            what, limit = oldest[0].item.work.what, limits.generate_timeout_s
            return f"did not finish {what} within {limit:.0f} s (rollout.generate_timeout_s)", "late"
        if self.asked is not None and now - self.asked > limits.hang_timeout_s:
            return f"did not answer for {limits.hang_timeout_s:.0f} s (rollout.hang_timeout_s)", "hung"
        return None

    def to_be_asked(self, now: float, every_s: float) -> bool:
        """Whether it is time to ask it whether it is there."""
        return self.state is not WorkerState.PENDING and self.asked is None and now - self.answered >= every_s

    def end(self) -> None:
        """Kill the actor and give its place back."""
        ray.kill(self.actor)
        if self.place is not None:
            remove_placement_group(self.place)


def create(number: int, config: Config, worker: Any) -> WorkerHandle:
    """Ask for a worker of the class `worker`, in a placement group of its own; returns at once."""
    settings = config.rollout
    place = _place(number, settings)
    options: dict[str, Any] = {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "runtime_env": {"env_vars": engine_environment(settings.threads, settings.engine.kv_cache_gib)},
    }
    if place is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=0)
    member = WorkerHandle(number, worker.options(**options).remote(f"rollout-{number}", config), place)
    member.move(WorkerState.PENDING)
    return member


def bundle(settings: RolloutConfig) -> dict[str, float]:
    """What one worker takes of the cluster."""
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    return {name: amount for name, amount in wanted.items() if amount}


def _place(number: int, settings: RolloutConfig) -> PlacementGroup | None:
    wanted = bundle(settings)
    # One bundle: a tensor-parallel engine needs its GPUs on one node. A group of nothing is not
    # allowed. Names are unique in a cluster, where other runs may have workers of the same number.
    name = f"rapo-rollout-{number}-{secrets.token_hex(4)}"
    return placement_group([wanted], name=name) if wanted else None

"""WorkerHandle: one rollout worker as the fleet knows it: its state, its process, its calls."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING

import ray

from cluster.remote.actors import Launch
from cluster.remote.needs import workers_need
from cluster.remote.placement import SharedRoom, place, release, request_placement
from cluster.rollout.tasks import InFlightCall
from rapo.config import Config, RolloutConfig
from rapo.errors import FaultKind
from rapo.inference.environment import engine_environment

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup


class WorkerState(StrEnum):
    """A worker's way through the fleet. Only `READY` workers get tasks."""

    PENDING = "pending"  # asked for; the cluster has no room yet, or the process is starting
    CREATING = "creating"  # its process runs, its engine starts
    HEALTHY = "healthy"  # the engine runs, on weights that the fleet does not use
    SYNCING = "syncing"  # it loads the fleet's weights
    READY = "ready"  # it has verified weights that the fleet uses
    ASLEEP = "asleep"  # the learner has its GPU; it loads the newest weights when it wakes
    DRAINING = "draining"  # it finishes its calls and gets no more
    GONE = "gone"


#: States of a worker that is on its way to `READY`.
COMING = (WorkerState.PENDING, WorkerState.CREATING, WorkerState.HEALTHY, WorkerState.SYNCING)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as `rapo/state.json` and `rapo status` show it; `since` is when its state began
    (Unix time), `running` the number of its calls in flight."""

    name: str
    state: WorkerState
    node: str
    pid: int
    version: int | None
    running: int
    groups: int
    tokens: int
    busy_seconds: float
    since: float


@dataclass(eq=False, slots=True)
class WorkerHandle:
    """A rollout worker.

    `node` is its node's host name, `node_id` Ray's id of it.
    `weight_version` is the version that it has verified, None where it has none; `weight_epoch` is
    the fleet's number of that load. `loading` is the epoch and the deadline of a load in flight.
    `calls` are its calls in flight with the deadline of each, oldest first. `deadline` is that of
    its start. `ping_sent_at` is None where the last ping is answered. `leaving` says that its node
    is about to go: it gets no new work, and does not come back. `bundle` is its place in the room
    that it shares with learner ranks.
    """

    number: int
    actor: ActorHandle
    placement: PlacementGroup | None
    state: WorkerState = WorkerState.PENDING
    node: str = "no node yet"
    node_id: str = ""
    pid: int = 0
    weight_version: int | None = None
    weight_epoch: int = -1
    loading: tuple[int, float] | None = None
    load_failures: int = 0
    calls: dict[InFlightCall, float] = field(default_factory=dict)
    deadline: float = float("inf")
    ping_sent_at: float | None = None
    last_seen: float = 0.0
    groups: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    worked: bool = False
    leaving: bool = False
    bundle: int | None = None
    times: dict[str, float] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """Its name in files and logs."""
        return f"rollout-{self.number}"

    @property
    def name(self) -> str:
        """Its name in error texts."""
        return f"rollout worker {self.number} on {self.node}"

    def move(self, state: WorkerState) -> None:
        self.state = state
        self.times.setdefault(state.value, time.time())

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self.role,
            state=self.state,
            node=self.node,
            pid=self.pid,
            version=self.weight_version,
            running=len(self.calls),
            groups=self.groups,
            tokens=self.tokens,
            busy_seconds=self.busy_s,
            since=self.times[self.state.value],
        )

    def joining(self) -> dict[str, float]:
        """Seconds of each part of its way from being asked for to its first group."""
        marks = ["pending", "creating", "healthy", "ready", "routed"]
        names = ["process", "engine", "weights", "first_group"]
        known = [
            (name, self.times.get(a), self.times.get(b)) for name, (a, b) in zip(names, pairwise(marks), strict=True)
        ]
        return {name: end - begin for name, begin, end in known if begin is not None and end is not None}

    def overdue(self, now: float, limits: RolloutConfig) -> tuple[str, FaultKind] | None:
        """What it is late with, in words, and the kind of that fault; None where it is in time."""
        if self.deadline < now:
            return f"did not start within {limits.start_timeout_s:.0f} s (rollout.start_timeout_s)", FaultKind.LATE
        if self.loading is not None and self.loading[1] < now:
            words = f"did not load its weights within {limits.load_timeout_s:.0f} s (rollout.load_timeout_s)"
            return words, FaultKind.LATE
        if self.calls and (oldest := next(iter(self.calls.items())))[1] < now:
            what, limit = oldest[0].queued.task.what, limits.generate_timeout_s
            return f"did not finish {what} within {limit:.0f} s (rollout.generate_timeout_s)", FaultKind.LATE
        if self.ping_sent_at is not None and now - self.ping_sent_at > limits.hang_timeout_s:
            return f"did not answer for {limits.hang_timeout_s:.0f} s (rollout.hang_timeout_s)", FaultKind.HUNG
        return None

    def ping_due(self, now: float, every_s: float) -> bool:
        """Whether it is time for the next ping."""
        return self.state is not WorkerState.PENDING and self.ping_sent_at is None and now - self.last_seen >= every_s

    def end(self) -> None:
        """Kill the actor and give its own placement group back."""
        ray.kill(self.actor)
        release(self.placement)


def create(
    number: int, config: Config, launch: Launch, room: SharedRoom | None = None, bundle: int | None = None
) -> WorkerHandle:
    """Start a worker in bundle `bundle` of `room`, or in a placement group of its own; returns at
    once."""
    settings = config.rollout
    own: PlacementGroup | None = None
    if room is None:
        # All parts of a model that is split over several GPUs are on one node.
        resources = workers_need(config, 1).resources
        own = request_placement(f"rollout-{number}", [resources], settings.labels, "spread")
    environment = engine_environment(settings.threads, settings.engine.kv_cache_gib)
    environment |= config.ray.environment("rollout", settings.gpus)
    gpus, devices = (settings.worker_gpus, {}) if room is None else room.worker_gpus(bundle or 0)
    environment |= devices
    options: dict[str, object] = {
        "num_cpus": settings.cpus,
        "num_gpus": gpus,
        "runtime_env": {"env_vars": environment},
    }
    options |= place(own if room is None else room.group, bundle or 0, settings.labels)
    worker = WorkerHandle(number, launch(f"rollout-{number}", config, options=options), own, bundle=bundle)
    worker.move(WorkerState.PENDING)
    return worker

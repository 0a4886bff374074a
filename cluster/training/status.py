"""Status: what a live run shows of itself (`rapo/state.json`, `rapo status`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.messages import ProcessInfo, RankInfo
from cluster.rollout.worker_handle import WorkerStatus


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The number of workers that there are to be, each worker, and the tasks that none has yet."""

    wanted: int
    workers: Sequence[WorkerStatus]
    waiting: int


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """Groups by where they are: ready to be used, being sampled, used, dropped as too old."""

    ready: int
    running: int
    used: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """`step` of `steps` optimiser steps are done; `version` is that of the newest weights."""

    step: int
    steps: int
    version: int
    fleet: FleetStatus
    learner: Sequence[RankInfo]
    reward: ProcessInfo | None
    window: WindowStatus

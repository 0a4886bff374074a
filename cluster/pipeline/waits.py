"""Waits: says what a stage waits for, as long as it has done nothing yet.

A cluster may have no room for the roles, a node may have to come, engines load weights: without a
word all of it looks like a run that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.terminal.console import StageHandle
from rapo.config import Config

#: Seconds until the first line; each further one takes twice as long to come.
FIRST_S = 15.0
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Roles:
    """So many actors of a kind, each with these logical resources."""

    count: int
    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.count} {self.name} ({self.cpus:g} CPU{gpus} each)"


def roles_of(config: Config, stage: str) -> list[Roles]:
    """The roles that must start before a stage does its first work."""
    rollout, learner, coldstart, serve = config.rollout, config.learner, config.coldstart, config.serve
    teacher, judge = config.aescot.teacher, config.aescot.judge
    workers = Roles(rollout.workers, "rollout worker(s)", rollout.cpus, rollout.worker_gpus)
    stages = {
        "aescot": [
            Roles(teacher.actors, "teacher(s)", teacher.cpus, teacher.gpus),
            Roles(judge.actors, "judge(s)", judge.cpus, judge.gpus),
        ],
        "coldstart": [Roles(coldstart.workers, "training worker(s)", coldstart.cpus, coldstart.gpus)],
        "rapo": [workers, Roles(learner.workers, "learner rank(s)", learner.cpus, learner.gpus)],
        "evaluate": [workers],
        "serve": [Roles(serve.replicas, "replica(s)", serve.cpus, serve.gpus)],
    }
    return stages.get(stage, [])


@contextmanager
def waits_said(handle: StageHandle, roles: list[Roles], first_s: float = FIRST_S) -> Iterator[None]:
    """While the block runs and the stage shows no progress, say what it waits for."""
    ended = threading.Event()

    def watch() -> None:
        pause = first_s
        while not ended.wait(pause) and not handle.completed and not handle.metrics:
            handle.note(f"waits for {' and '.join(map(str, roles))} to start; {_room(roles)}")
            pause *= 2

    if not roles:
        yield
        return
    thread = threading.Thread(target=watch, name=f"waits of {handle.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_S)  # it may be asking a Ray that no longer answers


def _room(roles: list[Roles]) -> str:
    """What the cluster has of what the roles need."""
    import ray

    if not ray.is_initialized():
        return "Ray is starting"
    there, free = ray.cluster_resources(), ray.available_resources()
    parts = []
    for kind in ("CPU", "GPU"):
        needed = sum(role.count * (role.cpus if kind == "CPU" else role.gpus) for role in roles)
        if not needed:
            continue
        has = there.get(kind, 0.0)
        short = f", {needed:g} are needed: add nodes, or lower the workers" if has < needed else ""
        parts.append(f"{has:g} {kind}s, {free.get(kind, 0.0):g} of them free{short}")
    return f"the cluster has {'; '.join(parts)}" if parts else "they need no CPUs of their own"

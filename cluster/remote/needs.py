"""Needs: the processes of each role, by stage, with what each of them takes.

`rapo check --cluster` places them on nodes, a stage that waits names them, and an autoscaler is
asked for their room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rapo.config import Config
from rapo.config.types import Strategy

#: CPUs of the reward actor, which mostly waits.
REWARD_CPUS = 0.5


@dataclass(frozen=True, slots=True)
class Need:
    """`count` processes of a role, each with `resources` on a node with `labels`, which lie on the
    nodes by `strategy`."""

    role: str
    count: int
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    strategy: Strategy = "pack"

    def __str__(self) -> str:
        amounts = [f"{amount:g} {name}" for name, amount in self.resources.items()] or ["nothing"]
        labels = [f"{key}={value}" for key, value in self.labels.items()]
        plural, each = ("s", " each") if self.count != 1 else ("", "")
        return f"{self.count} {self.role}{plural} ({', '.join(amounts + labels)}{each})"


def bundle(cpus: float, gpus: float) -> dict[str, float]:
    """What a process takes, by Ray's names of resources; empty where it takes nothing."""
    return {name: amount for name, amount in {"CPU": cpus, "GPU": gpus}.items() if amount}


def shared_need(config: Config) -> Need:
    """Learner ranks with the rollout worker that takes turns with them: one for each part of its
    model."""
    rollout, learner = config.rollout, config.learner
    parts = rollout.engine.tensor_parallel_size
    resources = bundle(parts * learner.cpus + rollout.cpus, max(parts * learner.gpus, rollout.worker_gpus))
    role = "rank-and-worker pair" if parts == 1 else "ranks-and-worker group"
    return Need(role, -(-learner.workers // parts), resources, learner.labels, learner.placement)


def workers_need(config: Config, count: int) -> Need:
    """`count` rollout workers; where these share, all of the room that they share."""
    if config.colocated:
        return shared_need(config)
    rollout = config.rollout
    return Need("rollout worker", count, bundle(rollout.cpus, rollout.worker_gpus), rollout.labels)


def training_needs(config: Config) -> list[Need]:
    """What trains beside the rollout workers, in room of its own."""
    learner, reward = config.learner, Need("reward actor", 1, {"CPU": REWARD_CPUS})
    if config.colocated:
        return [reward]
    own = bundle(learner.cpus, learner.gpus)
    return [Need("learner rank", learner.workers, own, learner.labels, learner.placement), reward]


def needs_of(config: Config) -> dict[str, Sequence[Need]]:
    """What runs at the same time, by stage."""
    coldstart, serve = config.coldstart, config.serve
    teacher, judge = config.aescot.teacher, config.aescot.judge
    workers = workers_need(config, config.rollout.workers)
    stages: dict[str, Sequence[Need]] = {
        "aescot": [
            Need("teacher", teacher.actors, bundle(teacher.cpus, teacher.gpus)),
            Need("judge", judge.actors, bundle(judge.cpus, judge.gpus)),
        ],
        "coldstart": [
            Need("cold start worker", coldstart.workers, bundle(coldstart.cpus, coldstart.gpus), coldstart.labels)
        ],
        "rapo": [workers, *training_needs(config)],
        "evaluate": [workers],
    }
    if serve.demo_images:
        stages["serve"] = [Need("replica", serve.most_replicas, bundle(serve.cpus, config.serve_gpus), serve.labels)]
    return stages

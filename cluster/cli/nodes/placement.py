"""Placement: where the processes of each role would go, and which find no room.

- It is first fit over the nodes' whole resources, as if nothing else ran: what it says does not fit
  can never be placed; what fits may still have to wait.
- Roles that run at the same time share the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.cli.nodes.probe import Node
from rapo.config import Config


@dataclass(frozen=True, slots=True)
class Need:
    """`count` processes of a role, each with `resources` on a node with `labels`."""

    role: str
    count: int
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        amounts = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items()) or "nothing"
        labels = "".join(f", {key}={value}" for key, value in self.labels.items())
        return f"{self.count} {self.role} of {amounts}{labels}"


def needs_of(config: Config) -> dict[str, list[Need]]:
    """What runs at the same time, by stage."""
    rollout, learner, coldstart, serve = config.rollout, config.learner, config.coldstart, config.serve
    teacher, judge = config.aescot.teacher, config.aescot.judge
    stages = {
        "aescot": [
            Need("teacher", teacher.actors, _amounts(teacher.cpus, teacher.gpus)),
            Need("judge", judge.actors, _amounts(judge.cpus, judge.gpus)),
        ],
        "coldstart": [
            Need("cold start worker", coldstart.workers, _amounts(coldstart.cpus, coldstart.gpus), coldstart.labels)
        ],
        "rapo": [
            Need("learner rank", learner.workers, _amounts(learner.cpus, learner.gpus), learner.labels),
            Need("rollout worker", rollout.workers, _amounts(rollout.cpus, rollout.gpus), rollout.labels),
            Need("reward actor", 1, {"CPU": 0.5}),
        ],
    }
    if config.serve.demo_images:
        stages["serve"] = [Need("replica", serve.most_replicas, _amounts(serve.cpus, serve.gpus), serve.labels)]
    return stages


def _amounts(cpus: float, gpus: float) -> dict[str, float]:
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def place(needs: Sequence[Need], nodes: Sequence[Node]) -> Iterator[tuple[Need, Counter[str]]]:
    """Each need with the number of its processes by the name of the node; those without room are
    counted under "". Needs with labels go first, because the others fit elsewhere, too."""
    free = {one.name: dict(one.resources) for one in nodes}
    labels = {one.name: one.labels for one in nodes}
    for need in sorted(needs, key=lambda need: not need.labels):
        placed: Counter[str] = Counter()
        for _ in range(need.count):
            fits = (
                node
                for node, left in free.items()
                if need.labels.items() <= labels[node].items()
                and all(left.get(name, 0.0) >= amount for name, amount in need.resources.items())
            )
            node = next(fits, "")
            placed[node] += 1
            if node:
                for name, amount in need.resources.items():
                    free[node][name] -= amount
        yield need, placed

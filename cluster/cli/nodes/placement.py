"""Placement: where the processes of each role would go, and which find no room.

- It is first fit over the nodes' whole resources, as if nothing else ran: what it says does not fit
  can never be placed; what fits may still have to wait.
- Roles that run at the same time share the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from cluster.cli.nodes.probe import Node
from cluster.remote.needs import Need


def place(needs: Sequence[Need], nodes: Sequence[Node]) -> Iterator[tuple[Need, Counter[str]]]:
    """Each need with the number of its processes by the name of the node; those without room are
    counted under "". Needs with labels go first, because the others fit elsewhere, too."""
    free = {one.name: dict(one.resources) for one in nodes}
    labels = {one.name: one.labels for one in nodes}
    for need in sorted(needs, key=lambda need: not need.labels):
        placed: Counter[str] = Counter()
        # Those that must lie on one node find room together.
        group = need.count if need.strategy == "strict_pack" else 1
        amounts = {name: amount * group for name, amount in need.resources.items()}
        for _ in range(0, need.count, group):
            fits = (
                node
                for node, left in free.items()
                if need.labels.items() <= labels[node].items()
                and all(left.get(name, 0.0) >= amount for name, amount in amounts.items())
                and not (need.strategy == "strict_spread" and placed[node])
            )
            node = next(fits, "")
            placed[node] += group
            if node:
                for name, amount in amounts.items():
                    free[node][name] -= amount
        yield need, placed

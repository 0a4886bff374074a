"""Network: how long a weight version takes from the learner to all rollout workers, by the speed of
the links between nodes.

- A node's link is all of its network cards together. It carries its speed in either direction, and
  the switches between nodes carry all links at once.
- Ranks are packed on nodes and workers have the other GPUs (`cluster/remote/placement.py`). Each
  rank puts its share of a version into the object store, so that the links of all nodes of ranks
  carry what leaves the learner. A few ranks, on as many nodes as there are, broadcast one each.
- Times are bytes over speeds. Latencies are left out: a version is sent in large pieces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rapo.plan.cards import Card

#: Share of an Ethernet link's rate that arrives as data over TCP: 1,448 bytes of the 1,538 that a
#: full frame takes on the wire (1,500 bytes of IP packet; headers of IP, TCP and its time stamps
#: 52 bytes; Ethernet's header, checksum, preamble and gap 38).
PAYLOAD = 1448 / 1538
#: Bytes per second at which a rank copies and hashes weights into the object store, and at which a
#: worker pulls a version out of its node's object store and verifies it (docs/results.md, "Weights
#: through the object store": 1.2 to 2.7 GB/s, and 6.7 GB/s). What several ranks of a node reach
#: together was not measured; they count as one.
PUT, PULL = 2.0e9, 6.7e9


@dataclass(frozen=True, slots=True)
class Network:
    """Nodes of `node_gpus` GPUs with links of `gbit` Gbit/s."""

    node_gpus: int = 8
    gbit: float = 100.0

    @property
    def rate(self) -> float:
        """Bytes per second of data over a node's link, in one direction."""
        return self.gbit * 1e9 / 8 * PAYLOAD

    def nodes(self, gpus: float) -> int:
        """The nodes that so many GPUs take."""
        return max(1, math.ceil(gpus / self.node_gpus))

    def receivers(self, learner_gpus: float, rollout_gpus: float, *, shared: bool = False) -> int:
        """The nodes beside that of rank 0 which have workers; `shared`: on the GPUs of the
        ranks."""
        if shared:
            return self.nodes(learner_gpus) - 1
        full = int(learner_gpus // self.node_gpus)  # nodes that have ranks alone, rank 0's among them
        return self.nodes(learner_gpus + rollout_gpus) - max(1, full)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Seconds of a version's way, by what could bound it; the ways overlap, so that the longest
    counts. `sent` are the bytes that leave a node of ranks that publish."""

    ways: dict[str, float]
    sent: float

    @property
    def seconds(self) -> float:
        return max(self.ways.values())

    @property
    def bound(self) -> str:
        return max(self.ways, key=lambda way: self.ways[way])


def through_store(
    version: float, publishers: int, receivers: int, network: Network, card: Card, parts: int, *, put: bool
) -> Delivery:
    """A version of so many bytes through the object store, into which the ranks on `publishers`
    nodes put it, and which each of `receivers` nodes pulls.

    - The ranks put one chunk after the other, beside their next step. Without `put` that is part of
      another time: ranks and workers take turns.
    - All nodes ask for a chunk as soon as it is there. Only its publisher's node has it then, so
      that its link carries the chunk to each of them: receivers x version / publishers / rate.
    - A worker asks for the next chunk when it has loaded the one before (`actors/chunk_fetch.py`):
      its own transfer, its pull and its copies to the GPUs of its `parts` add up.
    """
    transfer = version / network.rate if receivers else 0.0
    ways = {"the link of a node of ranks": receivers * transfer / publishers}
    ways["transfer and loading of a worker"] = transfer + version / PULL + version / parts / card.host_link
    if put:
        ways["copying into the object store"] = version / publishers / PUT
    return Delivery(ways, receivers * version / publishers)


def by_broadcast(
    version: float, publishers: int, receivers: int, network: Network, card: Card, *, put: bool
) -> Delivery:
    """A version of so many bytes by NCCL's broadcast of a share from each of `publishers` nodes,
    one after the other. A ring passes each on from node to node: the link of a node of workers
    carries the version once, whatever the number of nodes, and that of a publisher its share.

    The time of a broadcast is bytes over the slowest link's speed (nccl-tests,
    doc/PERFORMANCE.md). With `put` the ranks send from the copies in their hosts' memory.
    """
    ways = {"each node's link": version / network.rate if receivers else 0.0, "links between GPUs": version / card.link}
    if put:  # in turn, too
        ways["the ranks' links to their hosts"] = version / card.host_link
    return Delivery(ways, version / publishers if receivers else 0.0)

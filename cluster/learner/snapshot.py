"""Snapshot: the training state of all ranks after a step, and the steps trained since.

- Each rank's part lies on the rank's node. Where ranks have several nodes it lies once more on the
  next of them, so that the loss of one node leaves a copy of every part.
- A snapshot is used if each part has a copy that can be read. Both copies of a part are of the same
  step, and parts of two snapshots are never put together.
- The driver owns all copies, so that they outlive the ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ray
from ray.experimental import get_local_object_locations

from cluster.learner.group import ImageRefs, RankState
from rapo.algorithm.partition import Share

if TYPE_CHECKING:
    from ray import ObjectRef

_RECEIPT_S = 60.0
#: Ray keeps results up to this size in their owner's memory, and knows no node of theirs.
_INLINE_BYTES = 100 * 2**10


@dataclass(slots=True)
class Snapshot:
    """The ranks' states (None: as they started), and the steps trained since: shares and images.
    `copies` are the second copies: None before they are begun, empty where there are none."""

    states: list[RankState] | None
    since: list[tuple[Sequence[ObjectRef[Share]], Sequence[ImageRefs]]] = field(default_factory=list)
    copies: list[RankState] | None = None
    copied_by: float = math.inf

    def ended(self) -> bool:
        """Whether it is known if the snapshot could be made."""
        return _ended(self.states or ())

    def error(self) -> Exception | None:
        """Why the snapshot could not be made, None where it was."""
        return _error(self.states or ())

    @property
    def copying(self) -> bool:
        """Whether its second copies are being made."""
        return not _ended(self.copies or ())

    def copy_error(self) -> Exception | None:
        """Why its second copies could not be made, None where they were."""
        return _error(self.copies or ())

    @property
    def late(self) -> bool:
        return time.monotonic() > self.copied_by

    def give_up_copies(self) -> None:
        """Go on without second copies."""
        for _, files in self.copies or ():
            ray.cancel(files, force=True)
        self.copies = []

    def readable(self) -> list[RankState] | None:
        """A copy of each rank's state that can be read now, None where one has none."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return choose(self.states or (), self.copies or (), lambda part: _lies_on(part, alive))


def choose(
    states: Sequence[RankState], copies: Sequence[RankState], readable: Callable[[RankState], bool]
) -> list[RankState] | None:
    """For each rank its state, or the second copy where that is not readable; None where neither
    is. `copies` may be empty."""
    chosen: list[RankState] = []
    for rank, state in enumerate(states):
        found = next((part for part in (state, *copies[rank : rank + 1]) if readable(part)), None)
        if found is None:
            return None
        chosen.append(found)
    return chosen


def _ended(parts: Sequence[RankState]) -> bool:
    receipts = [receipt for receipt, _ in parts]
    return not receipts or not ray.wait(receipts, num_returns=len(receipts), timeout=0.0)[1]


def _error(parts: Sequence[RankState]) -> Exception | None:
    try:
        ray.get([receipt for receipt, _ in parts], timeout=_RECEIPT_S)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        return error
    return None


def _lies_on(part: RankState, nodes: set[str]) -> bool:
    """Whether a part was made, and lies on one of these nodes."""
    if not _ended([part]) or _error([part]) is not None:
        return False
    place = get_local_object_locations([part[1]]).get(part[1])
    if place is None:
        return False
    inline = place["object_size"] is not None and place["object_size"] <= _INLINE_BYTES
    return inline or not nodes.isdisjoint(place["node_ids"])

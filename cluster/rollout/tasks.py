"""What a fleet is asked to do: draw a group, or predict some images. Both may be done by any
worker, and again by another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapo.records import ImageRecord

#: Images that a worker decodes at once: a whole test set of photographs would not fit into its
#: memory.
_MOST_IMAGES = 256

#: What a worker says of a group that it drew, see `RolloutWorker.generate`.
Receipt = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A group to draw: the `record` with its encoded `image` as a ref, the `step` that its seeds
    come from, the `ticket` that its result is known by, and the least weight version that may draw
    it."""

    ticket: int
    record: ImageRecord
    image: Any
    step: int
    needs: int = 0

    @property
    def what(self) -> str:
        return f"a group of {self.record.uid}"


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """A ref to the group of a task, and the receipt."""

    task: Task
    group: Any
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class EvalShard:
    """The `place`-th piece of images to predict, from weights of the serial number `serial` or
    later ones."""

    place: int
    records: Sequence[ImageRecord]
    serial: int

    @property
    def what(self) -> str:
        return f"predictions of {len(self.records)} images from {self.records[0].uid} on"


def split(records: Sequence[ImageRecord], parts: int, serial: int) -> list[EvalShard]:
    """`records` in order, in pieces for `parts` workers or, where those would be too large, in
    more."""
    size = max(1, min(_MOST_IMAGES, math.ceil(len(records) / max(1, parts))))
    starts = range(0, len(records), size)
    return [EvalShard(place, records[start : start + size], serial) for place, start in enumerate(starts)]


@dataclass(eq=False, slots=True)
class QueuedTask:
    """Work of a fleet, how many workers were lost while they had it, and whether somebody still
    wants it."""

    work: Task | EvalShard
    lost: int = 0
    wanted: bool = True


@dataclass(eq=False, frozen=True, slots=True)
class InFlightCall:
    """Work that a worker has: `group` is a ref to a task's group."""

    item: QueuedTask
    group: Any = None

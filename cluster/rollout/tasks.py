"""Tasks of a fleet: groups to sample and images to predict, on their way through queue and workers.

Any worker can do a task, and another one can do it again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.messages import GroupReceipt
from rapo.config import ImageConfig
from rapo.images.decode import read_image_bytes
from rapo.records import Group, ImageRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ray import ObjectRef

#: Images that a worker decodes at once: a whole test set of photographs would not fit into its
#: memory.
_MOST_IMAGES = 256

#: Encoded bytes that a worker is sent at once, beside one image: they pass through the object store
#: of the driver's node.
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """A group to sample: the `record` with its encoded `image`, the `step` that its seeds come
    from, the `ticket` that its result is known by, and the oldest weight version that may sample
    it."""

    ticket: int
    record: ImageRecord
    image: ObjectRef[NDArray[np.uint8]]
    step: int
    min_version: int = 0

    @property
    def what(self) -> str:
        return f"a group of {self.record.uid}"


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """A task's group, as a ref, and its receipt."""

    task: Task
    group: ObjectRef[Group]
    receipt: GroupReceipt


@dataclass(frozen=True, slots=True)
class EvalShard:
    """Images to predict, from weights of the epoch `weight_epoch` or later ones. `first` is the
    place of its first image among all that were asked for."""

    first: int
    records: Sequence[ImageRecord]
    weight_epoch: int

    @property
    def what(self) -> str:
        return f"predictions of {len(self.records)} images from {self.records[0].uid} on"

    def with_bytes(self, limits: ImageConfig) -> list[ImageRecord]:
        """The records with the bytes of their images in place of paths: a worker may not see the
        driver's files. Where the images are too large to be sent at once, only the first ones.

        Raises `ImageError` where an image cannot be read.
        """
        read: list[ImageRecord] = []
        size = 0
        for record in self.records:
            data = read_image_bytes(record, limits)
            size += len(data)
            if read and size > _MOST_BYTES:
                break
            read.append(dataclasses.replace(record, path=None, data=data))
        return read

    def split(self, count: int) -> tuple[EvalShard, EvalShard]:
        """The first `count` images, and the others."""
        first = dataclasses.replace(self, records=self.records[:count])
        return first, dataclasses.replace(self, first=self.first + count, records=self.records[count:])


def shards(records: Sequence[ImageRecord], parts: int, weight_epoch: int) -> list[EvalShard]:
    """`records` in order, in a shard for each of `parts` workers, or in more where those would be
    too large."""
    size = max(1, min(_MOST_IMAGES, math.ceil(len(records) / max(1, parts))))
    return [EvalShard(first, records[first : first + size], weight_epoch) for first in range(0, len(records), size)]


@dataclass(eq=False, slots=True)
class QueuedTask:
    """A task, the number of workers that were lost while they had it, and whether its result is
    still wanted."""

    task: Task | EvalShard
    lost: int = 0
    wanted: bool = True


@dataclass(eq=False, frozen=True, slots=True)
class InFlightCall:
    """A task that a worker has. `group` is the ref to the group of a `Task`."""

    queued: QueuedTask
    group: ObjectRef[Group] | None = None

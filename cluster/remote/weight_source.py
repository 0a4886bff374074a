"""Weight versions: the learner publishes them, rollout workers load and verify them.

- A version is immutable. It is always in the object store: chunks and a manifest from each rank
  that publishes a share of it, as refs.
- This process owns the refs, because they are results of calls that it made. So a version outlives
  the learner that made it. It is freed when the last handle on it goes.
- A version may be broadcast as well, to the workers that were ready when it was published. It then
  reaches the object store after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from rapo.records import Chunk, Meeting, WeightManifest


class WeightSource(Protocol):
    """Weights that a rollout worker can load."""

    @property
    def version(self) -> int: ...

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        """Have a rollout worker pull, verify and load the weights; a ref to the version that it
        holds then."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """The rollout workers, by number, that are to receive a version together, and the epoch of
    their group."""

    epoch: int
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A version on its way from the ranks to `receivers`, which meet them at `meeting`."""

    meeting: Meeting
    receivers: Receivers

    def receive(self, version: int, worker: ActorHandle, number: int) -> ObjectRef[int]:
        """Have worker `number` receive, verify and load the version; as `WeightSource.pull`."""
        return worker.receive.remote(version, self.meeting, self.meeting.senders + self.receivers.workers.index(number))


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """Refs to the manifests, one for each part, and to all chunks of one version; `broadcast` where
    it is also sent."""

    version: int
    manifests: tuple[ObjectRef[WeightManifest], ...]
    chunks: tuple[ObjectRef[Chunk], ...]
    broadcast: Broadcast | None = None

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        return worker.load.remote(list(self.chunks), *self.manifests)


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder that counts as `version`: a path that every node can read, or a URL."""

    path: Path
    version: int

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        return worker.load_folder.remote(str(self.path), self.version)

"""Weight versions in the object store: the learner publishes them, rollout workers pull and verify.

- A version is immutable: a manifest and chunks, as refs.
- This process owns the refs, because they are results of calls that it made. So a version outlives
  the learner that made it. It is freed when the last handle on it goes.
- Another transport is another class with `version` and `pull`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from rapo.records import Chunk, WeightManifest


class WeightSource(Protocol):
    """Weights that a rollout worker can load."""

    @property
    def version(self) -> int: ...

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        """Have a rollout worker pull, verify and load the weights; a ref to the version that it
        holds then."""


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """Refs to the manifest and to the chunks of one version."""

    version: int
    manifest: ObjectRef[WeightManifest]
    chunks: tuple[ObjectRef[Chunk], ...]

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        return worker.load.remote(self.manifest, list(self.chunks))


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder that every node can read, which counts as `version`."""

    path: Path
    version: int

    def pull(self, worker: ActorHandle) -> ObjectRef[int]:
        return worker.load_folder.remote(str(self.path), self.version)

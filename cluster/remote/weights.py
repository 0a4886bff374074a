"""Versioned weights in the object store: the learner publishes, rollout workers pull and verify.

A version is immutable: a manifest and chunks, as refs that this process owns (they are results of
calls it made), so that a version outlives the learner that made it. A version is dropped when the
last handle on it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """Refs to the manifest and to the chunks of one version."""

    version: int
    manifest: Any
    chunks: tuple[Any, ...]

    def pull(self, worker: Any) -> Any:
        """Have a rollout worker pull, verify and load this; a ref to the version that it then
        holds."""
        return worker.load.remote(self.manifest, list(self.chunks))


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder that every node can read, which counts as `version`."""

    path: Path
    version: int

    def pull(self, worker: Any) -> Any:
        """Have a rollout worker load this; a ref to the version that it then holds."""
        return worker.load_folder.remote(str(self.path), self.version)


#: Where a rollout worker's weights come from.
WeightSource = WeightVersion | Folder

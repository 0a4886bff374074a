"""Versioned weights in the object store: the learner publishes, rollout workers pull and verify.

A version is immutable: a manifest and chunks, as refs that this process owns (they are results of calls it made), so that a
version outlives the learner that made it. A version is dropped when the last handle on it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """Refs to the manifest and to the chunks of one version."""

    version: int
    manifest: Any
    chunks: tuple[Any, ...]

"""A teacher whose process dies over one image, for `test_critique_job.py`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from actors.roles import Critiques, ImageBatch
from rapo.config import Config
from rapo.errors import ResourceError

DEADLY, STOPPED = "made/0000007", "made/0000011"


@dataclass(frozen=True, slots=True)
class DeadlyTeacher:
    """Dies as a segmentation fault or the kernel's memory killer would end it."""

    config: Config
    spent: float = 0.0

    def __call__(self, batch: ImageBatch) -> Critiques:
        if DEADLY in batch["uid"]:
            os._exit(1)
        return written(batch)


@dataclass(frozen=True, slots=True)
class OnceDeadlyTeacher:
    """Dies over the image for as long as there is no file `died`, which it leaves."""

    died: Path
    config: Config
    spent: float = 0.0

    def __call__(self, batch: ImageBatch) -> Critiques:
        if DEADLY in batch["uid"] and not self.died.exists():
            self.died.touch()
            os._exit(1)
        return written(batch)


@dataclass(frozen=True, slots=True)
class BrokeTeacher:
    """Runs out of budget at one image."""

    config: Config
    spent: float = 0.0

    def __call__(self, batch: ImageBatch) -> Critiques:
        if STOPPED in batch["uid"]:
            raise ResourceError("the budget is spent")
        return written(batch)


def written(batch: ImageBatch) -> Critiques:
    """A critique of each image."""
    empty: list[str | None] = [None] * len(batch["uid"])
    return {"critique": ["text"] * len(empty), "problem": empty, "reason": empty}

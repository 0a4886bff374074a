"""Teachers whose processes die over one image, and one that knows the processes of its pool, for
`test_critique_job.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa

from actors.roles import Critiques, ImageBatch
from cluster.aescot.source import _Read
from rapo.config import Config, ImageConfig
from rapo.errors import ResourceError
from tests.limits import PATIENCE_S

DEADLY, STOPPED = "made/0000007", "made/0000011"
#: The rows of a plan that are read at once.
FIRST = 24


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


@dataclass(frozen=True, slots=True)
class GatedRead:
    """Reads the first rows at once, and the others when there is a file `gate`."""

    gate: Path
    plan: Path
    rows: Sequence[int]
    limits: ImageConfig

    def __call__(self) -> Iterable[pa.Table]:
        if self.rows[0] >= FIRST:
            wait(self.gate.exists)
        yield from _Read(self.plan, self.rows, self.limits)()


class PooledTeacher:
    """Notes its process in a folder. It answers rows that come behind the gate when its pool has
    more than one process."""

    def __init__(self, pool: Path, config: Config, spent: float = 0.0) -> None:
        self._pool = pool
        self._gate = pool.with_name("gate")
        (pool / str(os.getpid())).touch()

    def __call__(self, batch: ImageBatch) -> Critiques:
        if self._gate.exists():
            wait(lambda: len(living(self._pool)) > 1)
        return written(batch)


def living(pool: Path) -> list[int]:
    """The processes of a pool that have not ended."""
    return [pid for pid in map(int, os.listdir(pool)) if lives(pid)]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)

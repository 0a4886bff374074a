"""What went wrong while a run went on: named by kind, and written down.

A fault is what the run survives: an actor that died, hung or was taken away with its node.
`rapo/faults.jsonl` has a row for each.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    RayError,
    RayTaskError,
)

from rapo.errors import RoleError

FAULTS = "faults.jsonl"


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind`: died, node lost, out of memory, hung, late, data lost, object store full, disk full
    or failed. `action`: what was done about it."""

    role: str
    node: str
    kind: str
    cause: str
    action: str
    time: float = field(default_factory=time.time)

    def row(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.role}{f' on {self.node}' if self.node else ''}: {self.kind}; {self.action}"


#: Who is told of a fault.
Report = Callable[[Fault], None]


def cause_of(error: BaseException) -> BaseException:
    """What a call raised, out of what Ray wraps it in."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) else error


def is_data_loss(error: BaseException) -> bool:
    """Whether a call failed because what it was given could not be had, through no fault of who was
    called."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, RayError)


def kind_of(error: BaseException) -> str:
    """The kind of a failed call's error."""
    if is_data_loss(error):
        return "data lost"
    error = cause_of(error)
    if isinstance(error, RoleError):
        return error.kind
    for kinds, name in _KINDS:
        if isinstance(error, kinds):
            return name
    text = str(error)
    if isinstance(error, ActorDiedError):
        return "node lost" if any(words in text for words in _NODE_WORDS) else "died"
    return "failed"


def one_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(cause_of(error)).splitlines() if line.strip()]
    return " ".join(lines)[:500] or type(error).__name__


_NODE_WORDS = ("node has died", "node was terminated", "its node has died", "the node died")
_KINDS: tuple[tuple[Any, str], ...] = (
    (OutOfMemoryError, "out of memory"),
    (OutOfDiskError, "disk full"),
    (ObjectStoreFullError, "object store full"),
    ((NodeDiedError,), "node lost"),
    ((ObjectLostError, OwnerDiedError), "data lost"),
    (GetTimeoutError, "late"),
    (ActorUnavailableError, "unreachable"),
)

"""Faults: the failures that a run survives, each with its kind.

An actor that died, hung or was lost with its node is a fault. `rapo/faults.jsonl` has a row for
each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

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

from rapo.errors import FaultKind, RoleError

FAULTS = "faults.jsonl"


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure of `role` and the `action` that was taken. `cause` is one line."""

    role: str
    node: str
    kind: FaultKind
    cause: str
    action: str
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"{self.role}{f' on {self.node}' if self.node else ''}: {self.kind}; {self.action}"


def cause_of(error: BaseException) -> BaseException:
    """The error that a call raised, without Ray's wrapping."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) else error


def is_data_loss(error: BaseException) -> bool:
    """Whether a call failed because an object that it was given could not be fetched; its actor is
    not at fault."""
    return isinstance(error, RayTaskError) and isinstance(error.cause, RayError)


def kind_of(error: BaseException) -> FaultKind:
    """The kind of a failed call's error."""
    if is_data_loss(error):
        return FaultKind.DATA_LOST
    error = cause_of(error)
    if isinstance(error, RoleError):
        return error.kind
    for types, kind in _KINDS:
        if isinstance(error, types):
            return kind
    if isinstance(error, ActorDiedError):
        text = str(error)
        return FaultKind.NODE_LOST if any(words in text for words in _NODE_WORDS) else FaultKind.DIED
    return FaultKind.FAILED


def one_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(cause_of(error)).splitlines() if line.strip()]
    return " ".join(lines)[:500] or type(error).__name__


_NODE_WORDS = ("node has died", "node was terminated", "its node has died", "the node died")
_KINDS: tuple[tuple[type[RayError] | tuple[type[RayError], ...], FaultKind], ...] = (
    (OutOfMemoryError, FaultKind.OUT_OF_MEMORY),
    (OutOfDiskError, FaultKind.DISK_FULL),
    (ObjectStoreFullError, FaultKind.OBJECT_STORE_FULL),
    (NodeDiedError, FaultKind.NODE_LOST),
    ((ObjectLostError, OwnerDiedError), FaultKind.DATA_LOST),
    (GetTimeoutError, FaultKind.LATE),
    (ActorUnavailableError, FaultKind.UNREACHABLE),
)

"""Waiting: waits for the calls of remote roles.

- Every wait has a time limit, and the death of a role ends it at once.
- A failed wait becomes a `RoleError` that names the role, the cause and the logs. A `RapoError`
  that a role raised comes through as it is.
- A wait for several calls is a generator (`Waiting`): it yields the refs that are pending and
  returns the values. `drive` runs it and does other work between two looks.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from cluster.remote.faults import cause_of, kind_of
from cluster.remote.ray_session import log_folder
from rapo.errors import FaultKind, RapoError, ResourceError, RoleError

T = TypeVar("T")

#: Yields the refs that are pending whenever none of them is done; returns the result.
Waiting = Generator[Sequence[ObjectRef], None, T]

#: How long after a first failure the other calls get to report the death that caused it.
_GRACE_S = 5.0
_POLL_S = 2.0
_DISK_FULL = os.strerror(errno.ENOSPC)


def wait(ref: ObjectRef[T], *, role: str, timeout_s: float) -> T:
    """The value of a ref. Raises `RoleError`, or the `RapoError` that the role raised."""
    try:
        return ray.get(ref, timeout=timeout_s)
    except (GetTimeoutError, RayError) as error:
        raise to_user_error(error, role=role, timeout_s=timeout_s) from error


def wait_each(refs: Sequence[ObjectRef[T]], *, roles: Sequence[str], timeout_s: float) -> Waiting[list[T]]:
    """The values of refs, one for each of `roles`; the first failure counts even while others are
    pending."""
    pending, deadline = list(refs), time.monotonic() + timeout_s
    role_of = dict(zip(refs, roles, strict=False))
    values: dict[ObjectRef[T], T] = {}
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=0.0)
        if not done and time.monotonic() < deadline:
            yield pending
            continue
        if not done:
            late = ", ".join(role_of[ref] for ref in pending)
            raise RoleError(
                f"{late} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}", kind=FaultKind.LATE
            )
        try:
            values[done[0]] = wait(done[0], role=role_of[done[0]], timeout_s=timeout_s)
        except RapoError as first:
            culprit = _culprit(pending, role_of)
            if culprit is None:
                raise
            raise culprit from first
    return [values[ref] for ref in refs]


def drive(waiting: Waiting[T], meanwhile: Callable[[Sequence[ObjectRef]], object]) -> T:
    """The result of `waiting`. Between its looks `meanwhile(pending)` runs, which returns as soon
    as one of the refs is done, or earlier.

    What `meanwhile` raises ends the wait and never passes through it, so that no retry inside the
    wait can take it for a failure of its own role.
    """
    while True:
        try:
            pending = next(waiting)
        except StopIteration as end:
            return end.value
        meanwhile(pending)


def finish(waiting: Waiting[T]) -> T:
    """The result of `waiting`, with nothing else to do meanwhile."""
    return drive(waiting, lambda pending: ray.wait(list(pending), num_returns=1, timeout=_POLL_S))


def _culprit(pending: list[ObjectRef], role_of: Mapping[ObjectRef, str]) -> RapoError | None:
    """The death among the other calls that made this one fail, None where there is none. The peers
    of a dead rank fail as well, and often sooner."""
    done, _ = ray.wait(pending, num_returns=len(pending), timeout=_GRACE_S) if pending else ([], [])
    for ref in done:
        try:
            ray.get(ref, timeout=_GRACE_S)
        except (ActorDiedError, OutOfMemoryError) as error:
            return to_user_error(error, role=role_of[ref], timeout_s=_GRACE_S)
        except (GetTimeoutError, RayError):
            continue
    return None


def run_limited(work: Callable[[], object], *, role: str, timeout_s: float, meanwhile: Callable[[], None]) -> None:
    """Run `work`, a call into a Ray library that has no time limit of its own, in a thread, and
    `meanwhile` twice a second.

    Raises `RoleError` after `timeout_s`, and the `RapoError` that the library has wrapped.
    """
    failure: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread, which raises it
            failure.append(error)

    thread = threading.Thread(target=run, name=role, daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_s
    while thread.is_alive():
        thread.join(timeout=0.5)
        meanwhile()
        if time.monotonic() > deadline:
            raise RoleError(f"{role} did not end within {timeout_s:.0f} s. Logs: {log_folder()}")
    if failure:
        raise _innermost(failure[0], role) from failure[0]


def _innermost(error: Exception, role: str) -> RapoError:
    """The `RapoError` that a Ray library's own exceptions wrap, or one that quotes them."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, RapoError):
            return current
        pending += [current.__cause__, getattr(current, "cause", None), current.__context__]
        pending += list(getattr(current, "worker_failures", {}).values())
    if _DISK_FULL in str(error):
        return ResourceError(f"{role}: the disk is full. Free some space, then start the same command again.")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RoleError(f"{role} failed: {' '.join(lines[-3:])[:500]}. Logs: {log_folder()}")


def to_user_error(error: Exception, *, role: str, timeout_s: float) -> RapoError:
    """A failed wait as an error that a person can act on."""
    if isinstance(error, GetTimeoutError):
        return RoleError(f"{role} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}", kind=FaultKind.LATE)
    kind = kind_of(error)
    if kind is FaultKind.DATA_LOST:
        lost = _first_lines(cause_of(error))
        return RoleError(f"{role} could not get what it was given: {lost}. Logs: {log_folder()}", kind=kind)
    if kind is FaultKind.OBJECT_STORE_FULL:
        return RoleError(
            f"{role}: the object store is full. Give it more room with ray.object_store_mib, or lower "
            "rapo.images_per_step, rapo.max_staleness or learner.chunk_mib.",
            kind=kind,
        )
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RapoError):
            return cause
        if _DISK_FULL in str(cause):
            return ResourceError(
                f"{role}: the disk is full: {cause}. Free some space, then start the same command again."
            )
        return RoleError(f"{role} failed: {type(cause).__name__}: {cause}. Logs: {log_folder()}")
    if kind is FaultKind.DISK_FULL:
        return ResourceError(
            f"{role}: the disk that Ray spills to is full. Free some space, then start the same command again."
        )
    if kind is FaultKind.OUT_OF_MEMORY:
        return RoleError(
            f"{role} was killed because its node ran out of memory. Lower the role's workers or batch size.", kind=kind
        )
    if isinstance(error, ActorDiedError):
        return RoleError(f"{role} died: {_first_lines(error)}. Logs: {log_folder()}", kind=kind)
    return RoleError(f"{role} failed: {type(error).__name__}: {_first_lines(error)}. Logs: {log_folder()}", kind=kind)


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]

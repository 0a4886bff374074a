"""Waiting for remote roles: every wait has a limit, and a death ends it at once.

A failed wait becomes a `RoleError` that names the role, the cause and the logs. An error of ours
that a role raised comes through as it is.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from cluster.remote.faults import cause_of, kind_of
from cluster.remote.ray_session import log_folder
from rapo.errors import RapoError, ResourceError, RoleError

#: How long after a first failure the others get to say that theirs was the cause.
_GRACE_S = 5.0
_DISK_FULL = os.strerror(errno.ENOSPC)


def wait(refs: Any, *, role: str, timeout_s: float) -> Any:
    """The values of one ref or of a list of refs. Raises `RoleError`, or the `RapoError` that the
    role raised."""
    try:
        return ray.get(refs, timeout=timeout_s)
    except (GetTimeoutError, RayError) as error:
        raise to_user_error(error, role=role, timeout_s=timeout_s) from error


def wait_each(
    refs: Sequence[Any],
    *,
    roles: Sequence[str],
    timeout_s: float,
    meanwhile: Callable[[Sequence[Any]], None] | None = None,
) -> list[Any]:
    """The values of refs, one for each of `roles`; the first failure counts even while others are
    pending.

    `meanwhile(pending)` is called as long as none is done; it does other work and returns soon, at
    the latest when one is.
    """
    pending, deadline = list(refs), time.monotonic() + timeout_s
    role_of = dict(zip(refs, roles, strict=False))
    values: dict[Any, Any] = {}
    while pending:
        left = deadline - time.monotonic()
        done, pending = ray.wait(pending, num_returns=1, timeout=0.0 if meanwhile else max(0.0, left))
        if not done and meanwhile and left > 0.0:
            meanwhile(pending)
            continue
        if not done:
            late = ", ".join(role_of[ref] for ref in pending)
            raise RoleError(f"{late} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}", kind="late")
        try:
            values[done[0]] = wait(done[0], role=role_of[done[0]], timeout_s=timeout_s)
        except RapoError as first:
            culprit = _culprit(pending, role_of)
            if culprit is None:
                raise
            raise culprit from first
    return [values[ref] for ref in refs]


def _culprit(pending: Sequence[Any], role_of: Mapping[Any, str]) -> RapoError | None:
    """The death among the other calls that made this one fail: the peers of a dead rank fail as
    well, and often sooner."""
    done, _ = ray.wait(pending, num_returns=len(pending), timeout=_GRACE_S) if pending else ([], [])
    for ref in done:
        try:
            ray.get(ref, timeout=_GRACE_S)
        except (ActorDiedError, OutOfMemoryError) as error:
            return to_user_error(error, role=role_of[ref], timeout_s=_GRACE_S)
        except (GetTimeoutError, RayError):
            continue
    return None


def run_limited(work: Callable[[], Any], *, role: str, timeout_s: float, meanwhile: Callable[[], None]) -> None:
    """Run `work`, a call into a Ray library that has no time limit of its own, in a thread, and
    `meanwhile` twice a second.

    Raises `RoleError` after `timeout_s`, and the `RapoError` inside whatever the library wraps a
    worker's failure in.
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
    """The error of ours that a Ray library's own exceptions wrap, or one that quotes them."""
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
    """What a failed wait means, for a person."""
    if isinstance(error, GetTimeoutError):
        return RoleError(f"{role} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}", kind="late")
    kind = kind_of(error)
    if kind == "data lost":
        lost = _first_lines(cause_of(error))
        return RoleError(f"{role} could not get what it was given: {lost}. Logs: {log_folder()}", kind=kind)
    if kind == "object store full":
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
    if kind == "disk full":
        return ResourceError(
            f"{role}: the disk that Ray spills to is full. Free some space, then start the same command again."
        )
    if kind == "out of memory":
        return RoleError(
            f"{role} was killed because its node ran out of memory. Lower the role's workers or batch size.", kind=kind
        )
    if isinstance(error, ActorDiedError):
        return RoleError(f"{role} died: {_first_lines(error)}. Logs: {log_folder()}", kind=kind)
    return RoleError(f"{role} failed: {type(error).__name__}: {_first_lines(error)}. Logs: {log_folder()}", kind=kind)


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]

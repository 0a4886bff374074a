"""Waiting for remote roles: every wait has a limit, and a death ends it at once.

A failed wait becomes a `RoleError` that names the role, the cause and the logs. An error of ours that a role raised comes through
as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from cluster.ray_session import log_folder
from rapo.errors import RapoError, RoleError


def wait(refs: Any, *, role: str, timeout_s: float) -> Any:
    """The values of one ref or of a list of refs. Raises `RoleError`, or the `RapoError` that the role raised."""
    try:
        return ray.get(refs, timeout=timeout_s)
    except (GetTimeoutError, RayError) as error:
        raise explain(error, role=role, timeout_s=timeout_s) from error


def wait_ready(refs: Sequence[Any], *, role: str, timeout_s: float) -> list[Any]:
    """Wait until every ref is there without fetching what it holds; the refs.

    A ref may hold an error: whoever uses it gets it.
    """
    pending, deadline = list(refs), time.monotonic() + timeout_s
    while pending:
        left = max(0.0, deadline - time.monotonic())
        done, pending = ray.wait(pending, num_returns=1, timeout=left, fetch_local=False)
        if not done:
            raise RoleError(f"{role} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}")
    return list(refs)


def wait_each(refs: Sequence[Any], *, role: str, timeout_s: float) -> list[Any]:
    """The values of refs; the first failure counts even while others are pending."""
    pending, deadline, values = list(refs), time.monotonic() + timeout_s, {}
    while pending:
        left = max(0.0, deadline - time.monotonic())
        done, pending = ray.wait(pending, num_returns=1, timeout=left)
        if not done:
            raise RoleError(f"{role} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}")
        values[done[0]] = wait(done[0], role=role, timeout_s=timeout_s)
    return [values[ref] for ref in refs]


def explain(error: Exception, *, role: str, timeout_s: float) -> RapoError:
    """What a failed wait means, for a person."""
    if isinstance(error, GetTimeoutError):
        return RoleError(f"{role} did not answer within {timeout_s:.0f} s. Logs: {log_folder()}")
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RapoError):
            return cause
        return RoleError(f"{role} failed: {type(cause).__name__}: {cause}. Logs: {log_folder()}")
    if isinstance(error, OutOfMemoryError):
        return RoleError(
            f"{role} was killed because its node ran out of memory. Lower the role's workers or batch size."
        )
    if isinstance(error, ActorDiedError):
        return RoleError(f"{role} died: {_first_lines(error)}. Logs: {log_folder()}")
    return RoleError(f"{role} failed: {type(error).__name__}: {_first_lines(error)}. Logs: {log_folder()}")


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]

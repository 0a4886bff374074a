"""Chunks of a weight version, fetched one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from rapo.errors import WeightError


def fetched(version: int, chunks: Sequence[Any], timeout_s: float) -> Iterator[Any]:
    """The values of the refs `chunks` in order. Each is asked for only when the consumer comes back
    for it, and none is kept here: a process maps one chunk at a time, and its node's object store
    has to hold no more.

    For a thread of its own: in an actor's event loop it would block the loop. Raises `WeightError`
    where a chunk is lost or does not come within `timeout_s`.
    """
    for number, chunk in enumerate(chunks):
        try:
            # As an expression, so that no name here holds what was yielded.
            yield ray.get(chunk, timeout=timeout_s)
        except GetTimeoutError as error:
            raise WeightError(
                f"weight version {version}: chunk {number} of {len(chunks)} did not come within {timeout_s:.0f} s "
                "(rollout.load_timeout_s)"
            ) from error
        except RayError as error:
            raise WeightError(f"weight version {version}: chunk {number} of {len(chunks)} is lost: {error}") from error

"""Chunks of a weight version, fetched one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from rapo.errors import WeightError

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")


def fetched(version: int, chunks: Sequence[ObjectRef[T]], timeout_s: float) -> Iterator[T]:
    """The values of the refs `chunks`, in order. Each is fetched only when the consumer comes back
    for it, and none is kept here: a process maps one chunk at a time, and its node's object store
    has to hold no more.

    It blocks, so it belongs into a thread and not into an actor's event loop. Raises `WeightError`
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

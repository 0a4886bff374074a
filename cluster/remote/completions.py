"""CompletionQueue: the remote calls that have ended, in the order in which they ended.

Ray reports each end from a thread of its own, at a cost that does not depend on how many other
calls are in flight. A wait over thousands of refs would cost more with each of them.
"""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray
from ray import ObjectRef

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CompletedCall(Generic[T]):
    """A call that was watched: its tag, and its value or its error."""

    tag: T
    value: object
    error: Exception | None


class CompletionQueue(Generic[T]):
    """Calls that have ended, each with the tag it was watched with. One thread takes them out."""

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[CompletedCall[T] | None] = queue.SimpleQueue()
        self._waking: set[ObjectRef] = set()

    def watch(self, ref: ObjectRef, tag: T) -> None:
        """Report the end of `ref`. Its value is fetched into this process, so it must be small."""
        ref.future().add_done_callback(lambda future: self._ended.put(_completed(tag, future)))

    def wake_at(self, ref: ObjectRef) -> None:
        """Have a `take` return when `ref` is done. Its value is fetched as well."""
        if ref in self._waking:
            return
        self._waking.add(ref)
        ref.future().add_done_callback(lambda future: self._wake(ref))

    def _wake(self, ref: ObjectRef) -> None:
        self._waking.discard(ref)
        self._ended.put(None)

    def take(self, timeout_s: float) -> list[CompletedCall[T] | None]:
        """All calls that have ended since the last `take`, None for a wake-up; waits for the first
        at most `timeout_s`."""
        taken: list[CompletedCall[T] | None] = []
        try:
            taken.append(self._ended.get(timeout=timeout_s) if timeout_s > 0 else self._ended.get_nowait())
            while True:
                taken.append(self._ended.get_nowait())
        except queue.Empty:
            return taken


def _completed(tag: T, future: Future[object]) -> CompletedCall[T]:
    error = future.exception()
    if error is not None and not isinstance(error, Exception):  # an interrupt inside a worker is a failure of the call
        error = ray.exceptions.RaySystemError(repr(error))
    return CompletedCall(tag, None if error is not None else future.result(), error)

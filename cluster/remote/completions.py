"""What remote calls ended as, in the order in which they ended: one queue instead of a wait over
thousands of refs.

Ray tells of each call's end from a thread of its own, at a cost that does not depend on how many
others are under way.
"""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True, slots=True)
class CompletedCall:
    """A call that `watch` was told of: what it was about, and its value or its error."""

    about: Any
    value: Any
    error: Exception | None


class CompletionQueue:
    """The calls that have ended. One thread takes them out."""

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[CompletedCall | None] = queue.SimpleQueue()
        self._waking: set[Any] = set()

    def watch(self, ref: Any, about: Any) -> None:
        """Tell of `ref`'s end. Its value is fetched into this process: for small values only."""
        ref.future().add_done_callback(lambda future: self._ended.put(_ended(about, future)))

    def wake_at(self, ref: Any) -> None:
        """Have a `take` return when `ref` is done. Its value is fetched as well."""
        if ref in self._waking:
            return
        self._waking.add(ref)
        ref.future().add_done_callback(lambda future: self._wake(ref))

    def _wake(self, ref: Any) -> None:
        self._waking.discard(ref)
        self._ended.put(None)

    def take(self, timeout_s: float) -> list[CompletedCall | None]:
        """All that have ended since the last call, None for a wake-up; waits for the first at most
        `timeout_s`."""
        taken: list[CompletedCall | None] = []
        try:
            taken.append(self._ended.get(timeout=timeout_s) if timeout_s > 0 else self._ended.get_nowait())
            while True:
                taken.append(self._ended.get_nowait())
        except queue.Empty:
            return taken


def _ended(about: Any, future: Future[Any]) -> CompletedCall:
    error = future.exception()
    if error is not None and not isinstance(error, Exception):  # an interrupt inside a worker is a failure of the call
        error = ray.exceptions.RaySystemError(repr(error))
    return CompletedCall(about, None if error is not None else future.result(), error)

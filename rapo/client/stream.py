"""BulkStream: what is in flight, what is answered and what must be sent again in a bulk job over
ScoreStream.

It knows neither threads nor gRPC, so that both clients share it.

- An image is in flight from `admit` until its outcome comes out of `take`, which happens once: a
  second result for it is dropped.
- It keeps at most as many images as the caller admits; after a broken stream those, and no others,
  are sent again.
- A retry never comes before the time that the service named.
- It gives up a job only if the service answered nothing at all for `limit_s` seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rapo.client.connection import RetryPolicy
from rapo.client.errors import CallError
from rapo.client.messages import outcome, result_or_error
from rapo.client.types import Image, Outcome
from rapo.v1 import scorer_pb2
from rapo.wire import UNKNOWN_VERSION

# A stream that ends with one of these may be opened again. RESOURCE_EXHAUSTED may only if the
# service says when.
_TRANSIENT = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED"})


@dataclass(slots=True)
class _Item:
    index: int
    image: Image
    request: scorer_pb2.ScoreRequest
    due: float
    tries: int = 0
    sent: bool = False


class BulkStream:
    """One job. Times are in seconds of `clock`, a monotonic one."""

    def __init__(self, policy: RetryPolicy, limit_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._policy = policy
        self._limit_s = limit_s
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._items: dict[str, _Item] = {}
        self._breaks = 0
        self._last_answer = clock()

    def __len__(self) -> int:
        """Images in flight."""
        return len(self._items)

    def admit(self, index: int, image: Image, request: scorer_pb2.ScoreRequest) -> None:
        """Take an image in; its request gets an id. `index` must be unique in the job."""
        if not self._items:
            self._last_answer = self._clock()  # the time since then was the caller's, not the service's
        request.request_id = f"{self._name}-{index}"
        self._items[request.request_id] = _Item(index, image, request, due=self._clock())

    def to_send(self) -> list[scorer_pb2.ScoreRequest]:
        """The requests that are due now. Each is returned once until it is due again."""
        now = self._clock()
        ready = [item for item in self._items.values() if not item.sent and item.due <= now]
        for item in ready:
            item.sent = True
        return [item.request for item in ready]

    def patience(self) -> float:
        """Seconds to wait, at most, until `to_send` returns something or `check` gives up."""
        now = self._clock()
        waiting = [item.due for item in self._items.values() if not item.sent]
        return max(0.0, min([*waiting, self._last_answer + self._limit_s]) - now)

    def take(self, reply: scorer_pb2.ScoreResult) -> Outcome | None:
        """The outcome in a reply; None if it was known already, or if the image is to be sent
        again.

        Raises `CallError` if the job's model version is no longer served: no image can be scored.
        """
        item = self._items.get(reply.request_id)
        if item is None:
            return None
        result = result_or_error(reply)
        if isinstance(result, CallError):
            if result.reason == UNKNOWN_VERSION:
                raise result
            item.tries += 1
            pause = self._policy.pause(result, item.tries, self._left())
            if pause is not None:
                item.sent, item.due = False, self._clock() + pause
                return None
        del self._items[reply.request_id]
        self._breaks = 0
        self._last_answer = self._clock()
        return outcome(item.index, item.image, result)

    def broken(self, error: CallError) -> None:
        """The stream ended with images in flight: they become due again after a pause. Raises
        `error` to give up."""
        self._breaks += 1
        pause = self._policy.pause(error, self._breaks, self._left())
        # gRPC's asynchronous client reports INTERNAL, whatever the cause, if it was about to write
        # when the stream broke. A service that does answer INTERNAL answers it again.
        transient = error.code in _TRANSIENT or (error.code == "INTERNAL" and self._breaks < self._policy.attempts)
        if pause is None and transient and self._policy.attempts > 1:
            pause = self._policy.backoff(self._breaks)
        if pause is None or pause >= self._left():
            raise error
        due = self._clock() + pause
        for item in self._items.values():
            item.sent, item.due = False, max(item.due, due)

    def check(self, target: str) -> None:
        """Raise `CallError` if the service has been silent for too long."""
        if self._items and self._left() <= 0:
            raise CallError(
                f"{target} answered none of {len(self._items)} images within {self._limit_s:g} s. Allow more time, or send "
                "fewer at once.",
                code="DEADLINE_EXCEEDED",
            )

    def _left(self) -> float:
        return self._last_answer + self._limit_s - self._clock()

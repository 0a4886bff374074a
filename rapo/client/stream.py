"""The book-keeping of a bulk job over ScoreStream: what is under way, what is answered, what must
be sent again.

Knows neither threads nor gRPC, so that both clients share it. What holds:
- An image is under way from `admit` until its outcome comes out of `take`, once: what comes twice
  is dropped.
- At most as many images are kept as the caller admits; a broken stream costs nothing but sending
  those again.
- A service that says when to come back is obeyed. The job is given up only where nothing at all was
  answered for `limit_s` seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rapo.client.connection import RetryPolicy
from rapo.client.errors import CallError
from rapo.client.types import Image, Outcome, outcome, result_or_error
from rapo.v1 import scorer_pb2

# A stream that ends so may be opened again. RESOURCE_EXHAUSTED belongs here only where the service
# says when.
_PASSING = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED"})


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
        """Images under way."""
        return len(self._items)

    def admit(self, index: int, image: Image, request: scorer_pb2.ScoreRequest) -> None:
        """Take an image in; its request gets an id. `index` must be unique in the job."""
        if not self._items:
            self._last_answer = self._clock()  # waiting for the caller is no silence of the service
        request.request_id = f"{self._name}-{index}"
        self._items[request.request_id] = _Item(index, image, request, due=self._clock())

    def to_send(self) -> list[scorer_pb2.ScoreRequest]:
        """The requests that are due now, each given once until it is due again."""
        now = self._clock()
        ready = [item for item in self._items.values() if not item.sent and item.due <= now]
        for item in ready:
            item.sent = True
        return [item.request for item in ready]

    def patience(self) -> float:
        """Seconds that may pass, at most, before `to_send` has something or the job is to be given
        up."""
        now = self._clock()
        waiting = [item.due for item in self._items.values() if not item.sent]
        return max(0.0, min([*waiting, self._last_answer + self._limit_s]) - now)

    def take(self, reply: scorer_pb2.ScoreResult) -> Outcome | None:
        """The outcome that a reply brings; None where it was known already, or the image is to be
        sent again."""
        item = self._items.get(reply.request_id)
        if item is None:
            return None
        result = result_or_error(reply)
        if isinstance(result, CallError):
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
        """The stream ended with images under way: they become due again after a pause. Raises
        `error` to give up."""
        self._breaks += 1
        pause = self._policy.pause(error, self._breaks, self._left())
        # gRPC's asynchronous client says INTERNAL where it was about to write as the stream broke,
        # whatever broke it. A service that means it says it again.
        passing = error.code in _PASSING or (error.code == "INTERNAL" and self._breaks < self._policy.attempts)
        if pause is None and passing and self._policy.attempts > 1:
            pause = self._policy.backoff(self._breaks)
        if pause is None or pause >= self._left():
            raise error
        due = self._clock() + pause
        for item in self._items.values():
            item.sent, item.due = False, max(item.due, due)

    def check(self, target: str) -> None:
        """Raise `CallError` where the service has been silent for too long."""
        if self._items and self._left() <= 0:
            raise CallError(
                f"{target} answered none of {len(self._items)} images within {self._limit_s:g} s. Allow more time, or send "
                "fewer at once.",
                code="DEADLINE_EXCEEDED",
            )

    def _left(self) -> float:
        return self._last_answer + self._limit_s - self._clock()


def ended_early() -> CallError:
    """For a stream that the service closed without a fault and without all answers: it is going
    down."""
    return CallError("the service closed the stream before it had answered everything", code="UNAVAILABLE")

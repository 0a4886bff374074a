"""BulkCalls: the bodies of ScoreBatch and ScoreStream, which hold many images.

- Each image has exactly one outcome; an image that fails does not stop the others.
- At most `max_stream_in_flight` images of a call are in flight.
- An image is passed on again, after a growing pause, if a queue was full or a replica went away:
  scoring has no side effects, and a caller with many images can wait for one of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from enum import Enum, auto
from time import monotonic
from typing import Literal

import grpc

from rapo.v1 import scorer_pb2
from services.gateway.rate_limit import RateLimit
from services.gateway.rpc import Call, logger
from services.gateway.upstream import Upstream
from services.names import REQUEST_ID, request_id_or_new
from services.statuses import Refusal, Refused, invalid

ImageOutcome = scorer_pb2.ScoreResponse | Refusal

_RETRIED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LEAST_S = 0.02  # an image with less time left than this is not begun: its score would come too late
_TIME_OVER = Refusal(
    grpc.StatusCode.DEADLINE_EXCEEDED, "the time of the call was over before all were answered", "deadline"
)
_BATCH_ATTEMPTS = 5
_STREAM_ATTEMPTS = 1000  # in effect, until the image's time limit


class _End(Enum):
    """Why no more messages of a stream are read."""

    CLIENT_DONE = auto()
    SERVER_STOPS = auto()


class BulkCalls:
    """Scores several images of a call side by side, within the limits.

    A stream on which nothing moves for `idle_s` seconds ends; all streams end when `stopping` is
    set.
    """

    def __init__(
        self,
        upstream: Upstream,
        limit: RateLimit,
        *,
        max_batch: int,
        max_in_flight: int,
        idle_s: float,
        stopping: asyncio.Event,
    ) -> None:
        self._upstream = upstream
        self._limit = limit
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._idle_s = idle_s
        self._stopping = stopping

    def admit(self, call: Call, images: int, field: str, least: int = 1) -> None:
        """Raise `Refused` if a call may never have so many images, or not now."""
        call.images = images
        if not least <= images <= self._max_batch:
            words = f"{images} images in `{field}`; one call takes {least} to {self._max_batch}"
            raise invalid(field, words, "number_of_images")
        self._limit.check(call.client, images)

    async def batch(self, call: Call, message: bytes) -> bytes:
        """The body of ScoreBatch."""
        requests = call.parse(scorer_pb2.ScoreBatchRequest, message).requests
        self.admit(call, len(requests), "requests")
        default = self._upstream.routes.default or ""
        for request in requests:
            # Another version may become the default while the images of the call are scored.
            request.model_version = request.model_version or default
        outcomes = await self.outcomes(call, requests)
        results = [result_of(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]
        return scorer_pb2.ScoreBatchResponse(results=results).SerializeToString()

    async def outcomes(
        self, call: Call, requests: Sequence[scorer_pb2.ScoreRequest], application: str | None = None
    ) -> list[ImageOutcome]:
        """An outcome for each request, in their order.

        Raises `Refused` if the service took none of them, so that the whole call may be retried, or
        if the call's time ran out.
        """
        slots = asyncio.Semaphore(self._max_in_flight)

        async def one(request: scorer_pb2.ScoreRequest) -> ImageOutcome:
            async with slots:
                return await self._outcome(call, request, _BATCH_ATTEMPTS, application)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
        outcomes = [task.result() for task in tasks]
        if call.deadline - monotonic() < _LEAST_S and any(
            isinstance(outcome, Refusal) and outcome.code == _TIME_OVER.code for outcome in outcomes
        ):
            raise Refused(_TIME_OVER)  # else it would depend on chance whether gRPC's own deadline comes first
        first = outcomes[0]
        if isinstance(first, Refusal) and all(isinstance(o, Refusal) and o.code in _RETRIED for o in outcomes):
            raise Refused(first)
        return outcomes

    async def stream(self, call: Call, _: object) -> None:
        """The body of ScoreStream."""
        try:
            async with asyncio.TaskGroup() as group:
                end = await self._read(call, group)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # the group has ended what was in flight
        if end is _End.SERVER_STOPS:
            words = "the server is stopping; send what has no result yet to another stream"
            raise Refused(Refusal(grpc.StatusCode.UNAVAILABLE, words, "stopping"))

    async def _read(self, call: Call, group: asyncio.TaskGroup) -> _End:
        """Start a task for each image that comes. The next message is read when there is room for
        its image."""
        slots = asyncio.Semaphore(self._max_in_flight)
        in_flight: set[str] = set()

        async def one(request: scorer_pb2.ScoreRequest) -> None:
            outcome = await self._outcome(call, request, _STREAM_ATTEMPTS, None)
            message = result_of(request, outcome).SerializeToString()
            # The id is free once its result is on its way; the slot only when the client has room
            # for results.
            in_flight.discard(request.request_id)
            await call.write(message, self._idle_s)
            slots.release()

        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                await slots.acquire()
                message = await self._next(call, stop, in_flight)
                if isinstance(message, _End):
                    return message
                request = call.parse(scorer_pb2.ScoreRequest, message)
                call.images += 1
                self._check_id(request.request_id, in_flight)
                await self._wait_for_share(call)
                in_flight.add(request.request_id)
                group.create_task(one(request))
        finally:
            stop.cancel()

    async def _next(self, call: Call, stop: asyncio.Future[Literal[True]], in_flight: set[str]) -> bytes | _End:
        """The next message. A client that is silent while results are still to come is not idle."""
        read: asyncio.Future[bytes] = asyncio.ensure_future(call.context.read())
        either: set[asyncio.Future[bytes] | asyncio.Future[Literal[True]]] = {read, stop}
        try:
            while True:
                done, _ = await asyncio.wait(either, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED)
                if read in done:
                    message = read.result()
                    return _End.CLIENT_DONE if message is grpc.aio.EOF else message
                if stop in done:
                    return _End.SERVER_STOPS
                if not in_flight:
                    raise TimeoutError
        finally:
            read.cancel()

    def _check_id(self, request_id: str, in_flight: set[str]) -> None:
        # The call as a whole fails: a result under an id that is not the client's, or twice under
        # one id, could only be given to the wrong image.
        if not REQUEST_ID.fullmatch(request_id):
            words = "each image of a stream needs a request_id of 1 to 128 printable ASCII characters, no spaces"
            raise invalid("request_id", words, "request_id")
        if request_id in in_flight:
            raise invalid("request_id", f"{request_id} is in flight already; ids must be unique", "repeated_id")

    async def _wait_for_share(self, call: Call) -> None:
        """Hold a stream up until its client's share allows another image."""
        while (wait := self._limit.take(call.client, 1)) > 0:
            await asyncio.sleep(min(wait, 1.0))

    async def _outcome(
        self, call: Call, request: scorer_pb2.ScoreRequest, attempts: int, application: str | None
    ) -> ImageOutcome:
        request.request_id = request_id_or_new(request.request_id)
        if call.deadline - monotonic() < _LEAST_S:
            return _TIME_OVER
        deadline = min(call.deadline, monotonic() + self._upstream.limit_s)
        pause = _FIRST_PAUSE_S
        for attempt in range(1, attempts + 1):
            try:
                response = await self._upstream.score(request, deadline, call.client, application)
            except Refused as error:
                refusal = error.refusal
            else:
                logger.info("image id=%s call_id=%s client=%s code=OK", request.request_id, call.id, call.client)
                return response
            if refusal.code not in _RETRIED or attempt == attempts or monotonic() + pause >= deadline:
                break
            self._upstream.metrics.retries.inc()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        logger.info(
            "image id=%s call_id=%s client=%s code=%s reason=%s",
            request.request_id,
            call.id,
            call.client,
            refusal.code.name,
            refusal.reason,
        )
        return refusal


def result_of(request: scorer_pb2.ScoreRequest, outcome: ImageOutcome) -> scorer_pb2.ScoreResult:
    """The message for an outcome, under the request's id."""
    if isinstance(outcome, Refusal):
        return scorer_pb2.ScoreResult(request_id=request.request_id, error=outcome.status())
    return scorer_pb2.ScoreResult(request_id=request.request_id, response=outcome)

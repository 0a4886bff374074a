"""Upstream: passes calls on to Serve, and turns Serve's answers into what callers may see.

- Each image is passed on exactly once per call of `Upstream.score`, to one of Serve's proxies; its
  caller decides about retries.
- None of a caller's metadata is passed on, so that no caller can choose Serve's routing or forge
  the secret.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic

import grpc

from rapo.v1 import scorer_pb2
from rapo.wire import UNKNOWN_VERSION
from services.gateway.large_images import LargeImages
from services.gateway.metrics import Metrics
from services.gateway.proxies import Proxies
from services.gateway.routes import Routes
from services.gateway.tracing import Tracing
from services.names import CALLER_KEY, SECRET_KEY
from services.room import Room
from services.statuses import QUEUE_FULL, Refusal, Refused, outward

#: While no version is known yet, or the scorer behind the gateway is gone.
_STARTING = Refusal(grpc.StatusCode.UNAVAILABLE, "the scorer is starting or restarting; try again", "restarting")


class Upstream:
    """Serve, as the gateway sees it. It belongs to one event loop; times are in seconds.

    `max_in_flight` is how many images the replicas of one application work on and queue, 0 if that
    is not known. More are refused here, at the lowest cost: an overloaded replica needs its time
    for images.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        secret: str,
        routes: Routes,
        metrics: Metrics,
        limit_s: float,
        large: LargeImages,
        max_in_flight: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self.routes = routes
        self.metrics = metrics
        self.tracing = tracing or Tracing()
        self.limit_s = limit_s
        self._secret = secret
        self._large = large
        self._rooms = defaultdict[str, Room](lambda: Room(max_in_flight or sys.maxsize))
        self.proxies = Proxies(addresses)

    async def close(self) -> None:
        """Close the connections to Serve."""
        self._large.close()
        await self.proxies.close()

    def application(self, version: str) -> str:
        """The application for a request's `model_version`. Raises `Refused` if no such version is
        served."""
        application = self.routes.resolve(version)
        if application is None:
            served = self.routes.versions()
            if not served:
                raise Refused(_STARTING)
            if not version:
                words = f"several model versions are served ({', '.join(served)}), and none is the default: name one"
                raise Refused(Refusal(grpc.StatusCode.NOT_FOUND, words, UNKNOWN_VERSION, "model_version"))
            words = f"no model version {version[:64]!r} is served; GetModel says which are"
            raise Refused(Refusal(grpc.StatusCode.NOT_FOUND, words, UNKNOWN_VERSION, "model_version"))
        return application

    def in_flight(self, application: str) -> int:
        """How many calls this application has not answered yet. From any thread."""
        return self._rooms[application].total

    def _room(self, application: str, caller: str) -> AbstractContextManager[None]:
        room = self._rooms[application]
        if not room.has(caller):
            raise Refused(QUEUE_FULL)
        return room.taken(caller)

    @contextmanager
    def _counted_outcome(self) -> Iterator[Callable[[scorer_pb2.ScoreResponse], None]]:
        """Count the outcome of one image, and turn gRPC's errors into `Refused`. Yields a function
        that the caller must give the response to."""
        started = monotonic()
        self.metrics.images_in_flight.inc()
        try:
            yield lambda response: self.metrics.scored(response, monotonic() - started)
        except grpc.aio.AioRpcError as error:
            refusal = outward(error)
            self.metrics.refused(refusal)
            raise Refused(refusal) from error
        except Refused as error:
            self.metrics.refused(error.refusal)
            raise
        finally:
            self.metrics.images_in_flight.dec()

    async def score(
        self, request: scorer_pb2.ScoreRequest, deadline: float, caller: str, application: str | None = None
    ) -> scorer_pb2.ScoreResponse:
        """The score of one image of a caller, by `deadline` (monotonic clock) and the service's own
        limit. Raises `Refused`.

        `application` overrides the request's version, so that several images go to the same one.
        """
        deadline = min(deadline, monotonic() + self.limit_s)
        with self._counted_outcome() as scored:
            target = application or self.application(request.model_version)
            with self._room(target, caller):
                await self._large.wait(request.image, caller, deadline)
                metadata = self._metadata(target, request.request_id, caller)
                with self.tracing.image_span(request.request_id) as span, self.proxies.stub() as stub:
                    response = await stub.Score(request, metadata=metadata, timeout=self._left(deadline))
                    span.scored(response)
            scored(response)
        return response

    async def explain(
        self, request: scorer_pb2.ScoreRequest, deadline: float, caller: str
    ) -> AsyncGenerator[scorer_pb2.ExplainResponse, None]:
        """The rationale in pieces, then the score. Raises `Refused`; leaving the loop cancels the
        work."""
        deadline = min(deadline, monotonic() + self.limit_s)
        with self._counted_outcome() as scored:
            application = self.application(request.model_version)
            with self._room(application, caller):
                await self._large.wait(request.image, caller, deadline)
                metadata = self._metadata(application, request.request_id, caller)
                with self.tracing.image_span(request.request_id) as span, self.proxies.stub() as stub:
                    call = stub.Explain(request, metadata=metadata, timeout=self._left(deadline))
                    try:
                        async for part in call:
                            if part.HasField("response"):
                                span.scored(part.response)
                                scored(part.response)
                            # The deployment ends a failed stream with a message that has no part,
                            # and a status.
                            if part.WhichOneof("part") is not None:
                                yield part
                    finally:
                        call.cancel()  # does nothing to a call that has ended

    async def model(self, version: str, deadline: float) -> scorer_pb2.GetModelResponse:
        """The description of the version by its own deployment. Raises `Refused`."""
        return await self.describe(self.application(version), deadline)

    async def describe(self, application: str, deadline: float) -> scorer_pb2.GetModelResponse:
        """The description of an application's model by itself. Raises `Refused`."""
        metadata = self._metadata(application)
        try:
            with self.proxies.stub() as stub:
                request = scorer_pb2.GetModelRequest()
                return await stub.GetModel(request, metadata=metadata, timeout=self._left(deadline))
        except grpc.aio.AioRpcError as error:
            raise Refused(outward(error)) from error

    async def healthy(self, limit_s: float) -> bool:
        """Whether the default version answers, or the first one where none is the default. One
        whose queue is full is healthy."""
        try:
            await self.model(next(iter(self.routes.versions()), ""), monotonic() + limit_s)
        except Refused as error:
            return error.refusal.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    def _metadata(self, application: str, request_id: str = "", caller: str = "") -> tuple[tuple[str, str], ...]:
        # Serve writes the id to its own log.
        named = tuple((key, value) for key, value in (("request_id", request_id), (CALLER_KEY, caller)) if value)
        return (("application", application), (SECRET_KEY, self._secret), *named)

    def _left(self, deadline: float) -> float:
        return max(min(deadline - monotonic(), self.limit_s), 0.0)

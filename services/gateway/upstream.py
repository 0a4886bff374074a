"""Passing one call on to Serve: routing, deadline, secret; and what came of it, in words that may
go out.

Each image is passed on exactly once per call of `Upstream.score`: gRPC's own retries are off, and
who calls decides. Nothing of a caller's metadata is passed on, so that no caller can choose Serve's
routing or forge the secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import grpc

from rapo.v1 import scorer_pb2
from rapo.wire import SERVICE
from services.gateway.metrics import Metrics
from services.gateway.routes import Routes
from services.gateway.tracing import Tracing
from services.names import SECRET_KEY
from services.statuses import QUEUE_FULL, Refusal, Refused, outward

_UNLIMITED = -1
_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.max_send_message_length", _UNLIMITED),
    # A Serve that came back is found within a second, not after gRPC's two minutes of growing
    # pauses.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]


class Upstream:
    """Serve, as the gateway sees it. To be made and used in one event loop; times are in seconds.

    `most` is how many images the replicas of one application work on and queue; 0: it is not known.
    More are refused here, where a refusal costs least: who is overloaded needs his time for images.
    """

    def __init__(
        self,
        address: str,
        secret: str,
        routes: Routes,
        metrics: Metrics,
        limit_s: float,
        most: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self.routes = routes
        self.metrics = metrics
        self.tracing = tracing or Tracing()
        self.limit_s = limit_s
        self._secret = secret
        self._most = most
        self._under_way: Counter[str] = Counter()
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._score = self._channel.unary_unary(
            f"/{SERVICE}/Score",
            request_serializer=scorer_pb2.ScoreRequest.SerializeToString,
            response_deserializer=scorer_pb2.ScoreResponse.FromString,
        )
        self._explain = self._channel.unary_stream(
            f"/{SERVICE}/Explain",
            request_serializer=scorer_pb2.ScoreRequest.SerializeToString,
            response_deserializer=scorer_pb2.ExplainResponse.FromString,
        )
        self._model = self._channel.unary_unary(
            f"/{SERVICE}/GetModel",
            request_serializer=scorer_pb2.GetModelRequest.SerializeToString,
            response_deserializer=scorer_pb2.GetModelResponse.FromString,
        )

    async def close(self) -> None:
        await self._channel.close()

    def application(self, version: str) -> str:
        """The application for a request's `model_version`. Raises `Refused` where no such version
        is served."""
        application = self.routes.resolve(version)
        if application is None:
            words = f"no model version {version[:64]!r} is served; GetModel says which are"
            raise Refused(Refusal(grpc.StatusCode.NOT_FOUND, words, "unknown_version", "model_version"))
        return application

    def under_way(self, application: str) -> int:
        """How many calls this application has not answered yet. From any thread."""
        return self._under_way[application]

    def _check_room(self, application: str) -> None:
        if 0 < self._most <= self._under_way[application]:
            raise Refused(QUEUE_FULL)

    @contextmanager
    def _counted(self, application: str) -> Iterator[None]:
        self._under_way[application] += 1
        try:
            yield
        finally:
            self._under_way[application] -= 1

    @contextmanager
    def _counted_outcome(self) -> Iterator[Callable[[scorer_pb2.ScoreResponse], None]]:
        """Around one image: its outcome is counted, and what gRPC raises becomes `Refused`. Gives
        what is to be told of its response."""
        started = monotonic()
        self.metrics.images_under_way.inc()
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
            self.metrics.images_under_way.dec()

    async def score(
        self, request: scorer_pb2.ScoreRequest, deadline: float, application: str | None = None
    ) -> scorer_pb2.ScoreResponse:
        """The score of one image, by `deadline` (monotonic clock) and the service's own limit.
        Raises `Refused`.

        `application` overrides what the request's version stands for, so that several images go the
        same way.
        """
        with self._counted_outcome() as scored:
            target = application or self.application(request.model_version)
            self._check_room(target)
            with self._counted(target), self.tracing.image_span(request.request_id) as passed:
                response = await self._score(
                    request, metadata=self._metadata(target, request.request_id), timeout=self._left(deadline)
                )
                passed.scored(response)
            scored(response)
        return response

    async def explain(
        self, request: scorer_pb2.ScoreRequest, deadline: float
    ) -> AsyncGenerator[scorer_pb2.ExplainResponse, None]:
        """The rationale in pieces, then the score. Raises `Refused`; leaving the loop cancels the
        work."""
        with self._counted_outcome() as scored:
            application = self.application(request.model_version)
            self._check_room(application)
            call = self._explain(
                request, metadata=self._metadata(application, request.request_id), timeout=self._left(deadline)
            )
            try:
                with self._counted(application), self.tracing.image_span(request.request_id) as passed:
                    async for part in call:
                        if part.HasField("response"):
                            passed.scored(part.response)
                            scored(part.response)
                        # The deployment ends a failed stream with a message that has no part, and a
                        # status.
                        if part.WhichOneof("part") is not None:
                            yield part
            finally:
                call.cancel()  # does nothing to a call that has ended

    async def model(self, version: str, deadline: float) -> scorer_pb2.GetModelResponse:
        """What the version's deployment says of itself. Raises `Refused`."""
        request = scorer_pb2.GetModelRequest(model_version=version)
        application = self.application(version)
        try:
            return await self._model(request, metadata=self._metadata(application, ""), timeout=self._left(deadline))
        except grpc.aio.AioRpcError as error:
            raise Refused(outward(error)) from error

    async def healthy(self, limit_s: float) -> bool:
        """Whether the default version answers. A full queue is not ill health."""
        try:
            await self.model("", monotonic() + limit_s)
        except Refused as error:
            return error.refusal.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    def _metadata(self, application: str, request_id: str) -> tuple[tuple[str, str], ...]:
        named = (("request_id", request_id),) if request_id else ()  # Serve writes it to its own log
        return (("application", application), (SECRET_KEY, self._secret), *named)

    def _left(self, deadline: float) -> float:
        return max(min(deadline - monotonic(), self.limit_s), 0.0)

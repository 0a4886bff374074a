"""SingleCalls: the bodies of Score, Explain and GetModel, which are passed on as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from rapo.v1 import scorer_pb2
from services.gateway.rate_limit import RateLimit
from services.gateway.rpc import Call
from services.gateway.upstream import Upstream
from services.names import request_id_or_new


class SingleCalls:
    """Calls that the deployment answers itself. `limits` makes the gateway's own part of
    GetModel."""

    def __init__(self, upstream: Upstream, limit: RateLimit, limits: Callable[[], scorer_pb2.Limits]) -> None:
        self._upstream = upstream
        self._limit = limit
        self._limits = limits

    def _admit(self, call: Call, message: bytes) -> scorer_pb2.ScoreRequest:
        request = call.parse(scorer_pb2.ScoreRequest, message)
        request.request_id = call.id = request_id_or_new(request.request_id)
        call.images = 1
        self._limit.check(call.client, 1)
        return request

    async def score(self, call: Call, message: bytes) -> bytes:
        """The body of Score."""
        response = await self._upstream.score(self._admit(call, message), call.deadline, call.client)
        return response.SerializeToString()

    async def explain(self, call: Call, message: bytes) -> None:
        """The body of Explain."""
        async with aclosing(self._upstream.explain(self._admit(call, message), call.deadline, call.client)) as parts:
            async for part in parts:
                await call.write(part.SerializeToString(), self._upstream.limit_s)

    async def model(self, call: Call, message: bytes) -> bytes:
        """The body of GetModel."""
        request = call.parse(scorer_pb2.GetModelRequest, message)
        response = await self._upstream.model(request.model_version, call.deadline)
        response.ClearField("models")
        response.models.extend(self._upstream.routes.versions())
        response.limits.MergeFrom(self._limits())
        return response.SerializeToString()

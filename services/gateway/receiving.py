"""ReceiveInterceptor: bounds how long a call may take to send its message.

gRPC tells a server of a call by its headers, and then waits without a limit for the message.

- The limit holds for every method that takes one message, health included. A stream of messages has
  a limit of its own (`serve.gateway.stream_idle_s`).
- A call whose message has not come whole in time ends with DEADLINE_EXCEEDED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from services.gateway.metrics import Metrics
from services.statuses import Refusal, abort, invalid

_NO_MESSAGE = invalid("", "the call has no message", "not_a_message").refusal

Handler = Callable[[object, grpc.aio.ServicerContext], Awaitable[object]]


class ReceiveInterceptor(grpc.aio.ServerInterceptor):
    """Gives a call `limit_s` seconds for its message. The methods' handlers must be coroutines, not
    generators."""

    def __init__(self, limit_s: float, metrics: Metrics) -> None:
        self._limit_s = limit_s
        self._metrics = metrics
        words = f"the request did not come whole within {limit_s:g} s"
        self._late = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, words, "late_request")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The method's own handler, behind the wait for its message."""
        found = await continuation(handler_call_details)
        if found is None or found.request_streaming:
            return found
        # gRPC calls the handler of a stream at once, and leaves it to read the message.
        coding = found.request_deserializer, found.response_serializer
        if found.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._after_message(found.unary_stream), *coding)
        return grpc.stream_unary_rpc_method_handler(self._after_message(found.unary_unary), *coding)

    def _after_message(self, body: Handler) -> Handler:
        async def handle(_: object, context: grpc.aio.ServicerContext) -> object:
            message: object = grpc.aio.EOF
            refusal = _NO_MESSAGE
            try:
                async with asyncio.timeout(self._limit_s):
                    message = await context.read()
            except TimeoutError:
                refusal = self._late
            if message is grpc.aio.EOF:
                self._metrics.calls.labels("any", refusal.code.name).inc()
                await abort(context, refusal)  # never returns
            return await body(message, context)

        return handle

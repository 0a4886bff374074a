"""Call and Calls: what every call has, whatever its method: an id, a deadline, a log line, metrics,
a span, and a status at its end."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import INVALID_SPAN, Span, use_span

from services.gateway.auth import client_of
from services.gateway.metrics import Metrics
from services.gateway.tracing import Tracing, trace_of
from services.statuses import Refusal, Refused, abort, invalid

M = TypeVar("M", bound=Message)

#: What a body gets beside the call: the message's bytes, or an iterator over messages.
R = TypeVar("R")

Body = Callable[["Call", R], Awaitable[bytes | None]]
Handler = Callable[[R, grpc.aio.ServicerContext], Awaitable[bytes | None]]

_SETTLE_S = 5.0

logger = logging.getLogger("rapo.calls")


@dataclass
class Call:
    """One call in flight. `deadline` is on the monotonic clock, infinite if the caller set none."""

    method: str
    context: grpc.aio.ServicerContext
    client: str
    deadline: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    images: int = 0
    size: int = 0
    started: float = field(default_factory=monotonic)
    span: Span = INVALID_SPAN
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _written: asyncio.Future[None] | None = None

    async def write(self, message: bytes, limit_s: float) -> None:
        """Send one message of a stream. Raises `TimeoutError` if the caller takes none for
        `limit_s` seconds."""
        async with self._writing:  # gRPC takes one message at a time
            if self._written is not None and not self._written.done():
                raise TimeoutError  # the one before was given up on, and still occupies the call
            self._written = asyncio.ensure_future(self._send(message, first=self._written is None))
            self._written.add_done_callback(_retrieve_exception)
            # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes together with the
            # result.
            async with asyncio.timeout(limit_s):
                await asyncio.shield(self._written)

    async def _send(self, message: bytes, *, first: bool) -> None:
        if first:
            # If they went with the message, a status that meets it on its way would bring them
            # again, and gRPC would refuse it.
            await self.context.send_initial_metadata(())
        await self.context.write(message)

    async def settle(self) -> None:
        """Give a message on its way some time to be sent, so that a status follows it rather than
        waits behind it."""
        if self._written is not None and not self._written.done():
            await asyncio.wait({self._written}, timeout=_SETTLE_S)

    def parse(self, kind: type[M], message: bytes) -> M:
        """The parsed message. Raises `Refused` for the caller's mistake: Serve would answer
        INTERNAL to it."""
        self.size += len(message)
        try:
            return kind.FromString(message)
        except DecodeError as error:
            raise invalid("", f"the request is not a {kind.DESCRIPTOR.full_name}", "not_a_message") from error


class Calls:
    """Counts the calls in flight, and makes handlers out of bodies that raise `Refused`."""

    def __init__(self, metrics: Metrics, max_calls: int, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing or Tracing()
        self._max_calls = max_calls
        self._in_flight = 0

    def handler(
        self, method: str, body: Body[R], make: Callable[[Handler[R]], grpc.RpcMethodHandler]
    ) -> grpc.RpcMethodHandler:
        """A handler of the kind that `make` (of `grpc.*_rpc_method_handler`) makes, on bytes."""

        async def handle(request: R, context: grpc.aio.ServicerContext) -> bytes | None:
            remaining = context.time_remaining()
            deadline = math.inf if remaining is None else monotonic() + remaining
            call = Call(method, context, client_of(context), deadline)
            call.span = self._tracing.start_call(method, context)
            self._in_flight += 1
            self._metrics.calls_in_flight.labels(method).inc()
            code, reason = "CANCELLED", ""
            try:
                with use_span(call.span, record_exception=False, set_status_on_exception=False):
                    result, refusal = await self._outcome(call, body, request)
                code, reason = (refusal.code.name, refusal.reason) if refusal is not None else ("OK", "")
            finally:
                self._in_flight -= 1
                if code == "CANCELLED" and monotonic() >= deadline - 0.01:
                    code = "DEADLINE_EXCEEDED"
                self._done(call, code, reason)
            if refusal is not None:
                await call.settle()
                await abort(context, refusal)
            return result

        return make(handle)

    async def _outcome(self, call: Call, body: Body[R], request: R) -> tuple[bytes | None, Refusal | None]:
        try:
            if self._in_flight > self._max_calls:
                words = "too many calls are in flight; try again later"
                raise Refused(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, words, "too_many_calls", retry_s=1.0))
            return await body(call, request), None
        except Refused as error:
            return None, error.refusal
        except grpc.aio.InternalError as error:  # a write to a caller that has gone
            raise asyncio.CancelledError from error
        except TimeoutError:
            return None, Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing moved within the time limit", "idle")
        except Exception:
            logger.exception("request %s failed", call.id)
            words = f"the gateway failed; its log has the details of request {call.id}"
            return None, Refusal(grpc.StatusCode.INTERNAL, words, "internal")

    def _done(self, call: Call, code: str, reason: str) -> None:
        seconds = monotonic() - call.started
        metrics = self._metrics
        metrics.calls_in_flight.labels(call.method).dec()
        metrics.calls.labels(call.method, code).inc()
        metrics.call_seconds.labels(call.method).observe(seconds)
        if call.images:
            metrics.client_images.labels(call.client).inc(call.images)
        trace_id = trace_of(call.span)
        self._tracing.end_call(call.span, code, reason, call_id=call.id, client=call.client, images=call.images)
        logger.info(
            "call=%s id=%s client=%s code=%s reason=%s images=%d bytes=%d ms=%.1f%s",
            call.method,
            call.id,
            call.client,
            code,
            reason or "-",
            call.images,
            call.size,
            1000 * seconds,
            f" trace={trace_id}" if trace_id else "",
        )


def _retrieve_exception(done: asyncio.Future[None]) -> None:
    """Keep asyncio from logging the failure of a message that nothing waits for any more."""
    if not done.cancelled():
        done.exception()

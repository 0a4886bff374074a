"""The door of the service: a thin gRPC server in front of Ray Serve's.

Serve's own proxy has no TLS, no authentication, no grpc.health.v1, and binds every interface. So nobody is sent
there: callers reach this gateway, which listens where it is told, and passes each call on with a secret that only it
and the deployment know. What holds:
- Nothing of a caller's metadata is passed on, so that no caller can choose Serve's routing or forge the secret.
- Only words that the deployment chose come back; details of Ray's making (tracebacks, paths, addresses) do not.
- No call outlives the caller's deadline or the configured limit, and a caller who goes away cancels the work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rapo.errors import ResourceError
from rapo.v1 import scorer_pb2

SERVICE = "rapo.v1.AestheticScorer"

#: Metadata key of the secret, on the way from the gateway to the deployment.
SECRET_KEY = "x-rapo-gateway"

#: Trailing metadata key of the one-word reason, by which the gateway knows the deployment's own words.
REASON_KEY = "rapo-reason"

_METHODS: dict[str, type[Message]] = {
    "Score": scorer_pb2.ScoreRequest,
    "GetModel": scorer_pb2.GetModelRequest,
}

# What a caller reads where the status was set by Ray or gRPC rather than by the deployment.
_OWN_WORDS: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the queue is full; try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer within the time limit",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
}

_START_LIMIT_S = 30.0
_PROBE_PERIOD_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens and what it forwards to. `port` 0 takes any free port; times are in seconds."""

    host: str
    port: int
    upstream: str
    secret: str
    application: str
    max_message_bytes: int
    request_timeout_s: float
    grace_s: float = 5.0


class Gateway:
    """The gateway in a thread of its own, with its own event loop. `start` and `stop` may each be called once."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rapo-gateway", daemon=True)

    @property
    def address(self) -> str:
        host = self.settings.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def start(self) -> None:
        """Bind and serve. Raises `ResourceError` where the address cannot be bound."""
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S):
            raise ResourceError(f"the gateway did not start within {_START_LIMIT_S:g} s; see the log")
        if self._failure is not None or not self.port:
            raise ResourceError(
                f"cannot listen on {self.settings.host}:{self.settings.port}. Free the port, or choose another with "
                "--set serve.port=..."
            ) from self._failure

    def stop(self) -> None:
        """Stop taking calls, let those under way finish within the grace, close."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(self.settings.grace_s + _START_LIMIT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except RuntimeError as error:  # what grpc.aio raises where it cannot bind
            self._failure = error
            logger.exception("the gateway failed")
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        settings = self.settings
        options = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),  # or a second server on the same port would start and take half of the calls
        ]
        async with grpc.aio.insecure_channel(settings.upstream) as channel:
            server = grpc.aio.server(options=options)
            servicer = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            handlers = {name: _handler(channel, name, kind, settings) for name, kind in _METHODS.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            self.port = _bind(server, f"{host}:{settings.port}")
            await _announce(servicer, serving=True)
            await server.start()
            self._ready.set()
            probe = asyncio.create_task(_probe(channel, servicer, settings))
            await self._stopping.wait()
            probe.cancel()
            await servicer.enter_graceful_shutdown()
            await server.stop(settings.grace_s)


def _bind(server: grpc.aio.Server, address: str) -> int:
    """The one place that decides how callers are let in: TLS and token checks belong here."""
    return server.add_insecure_port(address)


def _handler(
    channel: grpc.aio.Channel, name: str, kind: type[Message], settings: GatewaySettings
) -> grpc.RpcMethodHandler:
    """A handler that passes a call on as bytes and its outcome back."""
    forward = channel.unary_unary(f"/{SERVICE}/{name}")
    metadata = _metadata(settings)

    async def handle(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            kind.FromString(request)  # or Serve would answer INTERNAL to what is the caller's mistake
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is not a {kind.DESCRIPTOR.full_name}")
        remaining = context.time_remaining()
        limit = settings.request_timeout_s if remaining is None else min(remaining, settings.request_timeout_s)
        try:
            return await forward(request, metadata=metadata, timeout=limit)
        except grpc.aio.AioRpcError as error:
            code, details, trailing = _outward(error)
        await context.abort(code, details, trailing)
        raise AssertionError("abort returns never")

    return grpc.unary_unary_rpc_method_handler(handle)


def _metadata(settings: GatewaySettings) -> tuple[tuple[str, str], ...]:
    return (("application", settings.application), (SECRET_KEY, settings.secret))


def _outward(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """The status that a caller may see for an upstream one."""
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            return error.code(), error.details() or "", ((REASON_KEY, str(value)),)
    code = error.code()
    if code in _OWN_WORDS:
        return code, _OWN_WORDS[code], ()
    # The deployment marks every status of its own. What is left is Serve's: no replica yet, or one that died under
    # the call; both pass, and scoring may be repeated, so the caller is told to.
    logger.warning("upstream answered %s: %s", code.name, error.details())
    return grpc.StatusCode.UNAVAILABLE, "the scorer is starting or restarting; try again", ()


async def _announce(servicer: health.aio.HealthServicer, *, serving: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", SERVICE):
        await servicer.set(service, status)


async def _probe(channel: grpc.aio.Channel, servicer: health.aio.HealthServicer, settings: GatewaySettings) -> None:
    """Keep the health status true: ask upstream for its model now and then. A full queue is not ill health."""
    ask: Callable[..., Awaitable[bytes]] = channel.unary_unary(f"/{SERVICE}/GetModel")
    busy = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    while True:
        await asyncio.sleep(_PROBE_PERIOD_S)
        try:
            await ask(b"", metadata=_metadata(settings), timeout=_PROBE_PERIOD_S)
            serving = True
        except grpc.aio.AioRpcError as error:
            serving = error.code() in busy
        await _announce(servicer, serving=serving)

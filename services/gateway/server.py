"""Gateway: the gRPC server that callers reach, in front of Ray Serve's.

Serve's own proxy has no TLS, no authentication and no grpc.health.v1, and binds every interface. So
callers reach this gateway instead. It listens only at the configured address, and passes each image
on with a secret that only it and the deployment know.

- If there is a tokens file, every method answers a call without a known token with UNAUTHENTICATED,
  and reveals nothing else.
- None of a caller's metadata is passed on.
- Only words of the deployment or the gateway reach a caller, none of Ray (tracebacks, paths).
- No call outlives the caller's deadline, and no image the configured limit. A caller that goes away
  cancels the work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rapo.config import GatewayConfig, ImageConfig, RewardSettings
from rapo.errors import ResourceError
from rapo.util.freed_memory import return_freed_memory
from rapo.v1 import scorer_pb2
from rapo.wire import SERVICE
from services.gateway.auth import AuthInterceptor
from services.gateway.bulk import BulkCalls
from services.gateway.discovery import Discovery
from services.gateway.large_images import LargeImages
from services.gateway.metrics import Metrics, MetricsPage
from services.gateway.rank import RankCalls
from services.gateway.rate_limit import RateLimit
from services.gateway.receiving import ReceiveInterceptor
from services.gateway.reloading import FileFollower
from services.gateway.routes import Routes
from services.gateway.rpc import Calls
from services.gateway.score import SingleCalls
from services.gateway.tls import Certificates, certificates
from services.gateway.tokens import Tokens
from services.gateway.tracing import Tracing
from services.gateway.upstream import Upstream

_START_LIMIT_S = 30.0
_ALIVE_LIMIT_S = 2.0
# How often the scorer is asked while it answers, and while it does not.
_PROBE_PERIOD_S, _SEARCH_PERIOD_S = 5.0, 1.0
_FILES_PERIOD_S = 1.0

# Per connection; a client that needs more waits or opens another one.
_MAX_STREAMS = 1024
_MAX_METADATA_BYTES = 16 * 1024
_HANDSHAKE_LIMIT_S = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens and what it forwards to. `port` 0 takes any free port; times are in
    seconds.

    `upstreams` are the addresses (host:port) of Serve's proxies. With `discover` the routes start
    empty and follow what Serve runs. `image` are the replicas' limits; `gamma` is the reward's, for
    Rank; `max_samples` the deployment's, for GetModel. `max_in_flight` is how many images one
    application works on and queues, 0 if that is not known.
    """

    host: str
    port: int
    upstreams: tuple[str, ...]
    secret: str
    routes: Routes
    max_message_bytes: int
    request_timeout_s: float
    image: ImageConfig = field(default_factory=ImageConfig)
    options: GatewayConfig = field(default_factory=GatewayConfig)
    gamma: float = RewardSettings().gamma
    max_samples: int = 0
    max_in_flight: int = 0
    discover: bool = False


class Gateway:
    """The gateway in a thread of its own, with its own event loop. It can be started and stopped
    once.

    Raises `ConfigError` for a certificate, key, CA or tokens file that cannot be used, and for
    traces that cannot be sent.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.port = 0
        self.metrics = Metrics()
        #: Whether the scorer behind the gateway answers, and the gateway takes calls.
        self.serving = False
        self._certificates: Certificates | None = certificates(settings.options)
        self._tokens = None if settings.options.tokens is None else Tokens(settings.options.tokens)
        followed = (("tokens", self._tokens), ("certificates", self._certificates))
        self._files = {name: content.file for name, content in followed if content is not None}
        self._tracing = Tracing(settings.options.otlp, settings.options.trace_share)
        self._page: MetricsPage | None = None
        self._upstream: Upstream | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rapo-gateway", daemon=True)

    @property
    def address(self) -> str:
        """Where clients connect, as `host:port`."""
        return _address(self.settings.host, self.port)

    @property
    def routes(self) -> Routes:
        """Which versions are served; may be changed while the gateway runs."""
        return self.settings.routes

    def in_flight(self, application: str) -> int:
        """How many calls the application has not answered yet."""
        return self._upstream.in_flight(application) if self._upstream is not None else 0

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics page; None if there is no page."""
        return None if self._page is None else self._page.port

    def start(self) -> None:
        """Bind and serve. Raises `ResourceError` if the address cannot be bound."""
        return_freed_memory()
        options = self.settings.options
        if options.metrics_port is not None:
            host = options.metrics_host
            self._page = MetricsPage(self.metrics, host, options.metrics_port, self._alive, lambda: self.serving)
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S):
            raise ResourceError(f"the gateway did not start within {_START_LIMIT_S:g} s; see the log")
        if self._failure is not None or not self.port:
            self.stop()
            raise ResourceError(
                f"cannot listen on {self.settings.host}:{self.settings.port}. Free the port, or choose another with "
                "--set serve.port=..."
            ) from self._failure

    def stop(self) -> None:
        """Take no more calls, let those in flight finish within the grace, close."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # if it has failed, its loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(self.settings.options.grace_s + _START_LIMIT_S)
        if self._page is not None:
            self._page.close()
            self._page = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _alive(self) -> bool:
        """Whether the event loop still turns."""
        answer: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(answer.set_result, None)
            answer.result(_ALIVE_LIMIT_S)
        except (RuntimeError, TimeoutError):  # RuntimeError: the loop is closed
            return False
        return True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except RuntimeError as error:  # grpc.aio raises it if it cannot bind
            self._failure = error
            logger.exception("the gateway failed")
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        settings = self.settings
        async with AsyncExitStack() as stack:
            stack.callback(self._tracing.close)  # runs last, so that the spans of the last calls are sent
            upstream = Upstream(
                settings.upstreams,
                settings.secret,
                settings.routes,
                self.metrics,
                settings.request_timeout_s,
                LargeImages(settings.image, len(settings.upstreams)),
                settings.max_in_flight,
                self._tracing,
            )
            stack.push_async_callback(upstream.close)
            auth = AuthInterceptor(self._tokens, self.metrics, health_open=settings.options.health_without_token)
            receive = ReceiveInterceptor(settings.options.receive_s, self.metrics)
            server = grpc.aio.server(options=_options(settings), interceptors=(auth, receive))
            servicer = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            handlers = self._handlers(upstream)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
            if settings.options.reflection:
                from grpc_reflection.v1alpha import reflection

                names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
                reflection.enable_server_reflection(names, server)
            self.port = self._bind(server)
            # What it does not know itself, it must find out first.
            await self._announce(servicer, serving=not settings.discover)
            await server.start()
            self._upstream = upstream
            # So that neither a renewal nor a revocation needs a restart.
            follower = FileFollower(self._files, _FILES_PERIOD_S)
            stack.callback(follower.close)
            tasks = [
                asyncio.create_task(self._probe(upstream, servicer)),
                asyncio.create_task(self._count_failures(follower)),
            ]
            self._ready.set()
            await self._stopping.wait()
            self._upstream = None
            # First the probe, which would call a gateway that drains ready again.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._announce(servicer, serving=False)
            await servicer.enter_graceful_shutdown()
            await server.stop(settings.options.grace_s)

    def _bind(self, server: grpc.aio.Server) -> int:
        # The only place that decides about TLS.
        address = _address(self.settings.host, self.settings.port)
        if self._certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._certificates.credentials())

    def _handlers(self, upstream: Upstream) -> dict[str, grpc.RpcMethodHandler]:
        options = self.settings.options
        limit = RateLimit(options.rate, options.burst)
        calls = Calls(self.metrics, options.max_calls, upstream.tracing)
        single = SingleCalls(upstream, limit, self._limits)
        bulk = BulkCalls(
            upstream,
            limit,
            max_batch=options.max_batch,
            max_in_flight=options.max_stream_in_flight,
            idle_s=options.stream_idle_s,
            stopping=self._stopping,
        )
        ranking = RankCalls(upstream, bulk, self.settings.gamma)
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return {
            "Score": calls.handler("Score", single.score, unary),
            "ScoreBatch": calls.handler("ScoreBatch", bulk.batch, unary),
            "ScoreStream": calls.handler("ScoreStream", bulk.stream, stream),
            "Rank": calls.handler("Rank", ranking.rank, unary),
            "Explain": calls.handler("Explain", single.explain, grpc.unary_stream_rpc_method_handler),
            "GetModel": calls.handler("GetModel", single.model, unary),
        }

    def _limits(self) -> scorer_pb2.Limits:
        options = self.settings.options
        return scorer_pb2.Limits(
            max_batch=options.max_batch,
            max_stream_in_flight=options.max_stream_in_flight,
            max_message_bytes=self.settings.max_message_bytes,
            max_samples=self.settings.max_samples,
        )

    async def _probe(self, upstream: Upstream, servicer: health.aio.HealthServicer) -> None:
        """Keep the health status true, and the routes of a gateway that discovers them."""
        settings = self.settings
        discovery = Discovery(upstream, settings.options.default_version) if settings.discover else None
        while True:
            await asyncio.sleep(_PROBE_PERIOD_S if self.serving else _SEARCH_PERIOD_S)
            if discovery is not None:
                await discovery.refresh()
            await self._announce(servicer, serving=await upstream.healthy(_PROBE_PERIOD_S))

    async def _announce(self, servicer: health.aio.HealthServicer, *, serving: bool) -> None:
        self.serving = serving
        self.metrics.serving.set(int(serving))
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await servicer.set(service, status)

    async def _count_failures(self, follower: FileFollower) -> None:
        """Keep the count of changes that could not be used. The files themselves are read in the
        follower's threads."""
        counted = dict.fromkeys(self._files, 0)
        while True:
            await asyncio.sleep(_FILES_PERIOD_S)
            for name in follower.stuck():
                self.metrics.reload_failures.labels(name).inc()
            for name, file in self._files.items():
                self.metrics.reload_failures.labels(name).inc(file.failures - counted[name])
                counted[name] = file.failures


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(settings: GatewaySettings) -> Iterable[tuple[str, int]]:
    return (
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # A connection whose other end is gone, or that never finishes its handshake, does not stay.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_LIMIT_S),
        # A client that pings more often than every 20 s is cut off after three times.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # else a second server on the port starts and takes half of the calls
    )

"""Metrics: the gateway's Prometheus metrics, and the HTTP page of metrics and probes.

- Labels hold no text of a caller: methods, codes and reasons are from fixed sets, clients from the
  tokens file or certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from rapo.errors import ResourceError
from rapo.v1 import scorer_pb2
from services.statuses import Refusal

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_HOSTS = ("127.0.0.1", "localhost")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TWENTIETHS = tuple(round(0.05 * step, 2) for step in range(1, 21))
_STAGES = ("decode", "queue", "generate", "outside")


class Metrics:
    """The metrics of one gateway, in a registry of its own, so that several gateways in one process
    do not mix."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.calls = Counter(
            "rapo_calls", "Calls that ended, by method and status code.", ["method", "code"], registry=registry
        )
        self.call_seconds = Histogram(
            "rapo_call_seconds", "Duration of a call in the gateway.", ["method"], buckets=_SECONDS, registry=registry
        )
        self.calls_in_flight = Gauge("rapo_calls_under_way", "Calls that are open.", ["method"], registry=registry)
        self.images_in_flight = Gauge(
            "rapo_images_under_way", "Images that were passed on and have no outcome yet.", registry=registry
        )
        self.images = Counter("rapo_images", "Outcomes of images, by status code.", ["code"], registry=registry)
        self.client_images = Counter(
            "rapo_client_images", "Images that a client sent, refused ones too.", ["client"], registry=registry
        )
        self.stage_seconds = Histogram(
            "rapo_stage_seconds",
            "Time of a scored image by stage; outside: network, Serve and its queue.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter("rapo_completion_tokens", "Tokens that the model wrote.", registry=registry)
        self.cached = Counter("rapo_cache_hits", "Images answered from the cache.", registry=registry)
        self.parse_failures = Counter(
            "rapo_parse_failures", "Answers of the model that hold no score, by reason.", ["reason"], registry=registry
        )
        self.scores = Histogram(
            "rapo_score", "Scores given, to see drift.", ["model_version"], buckets=_TWENTIETHS, registry=registry
        )
        self.refusals = Counter(
            "rapo_refusals", "Images and calls without a score, by reason.", ["reason"], registry=registry
        )
        self.retries = Counter(
            "rapo_bulk_retries", "Images of bulk calls that were passed on again.", registry=registry
        )
        self.serving = Gauge("rapo_serving", "Whether the scorer behind the gateway answers.", registry=registry)
        self.reload_failures = Counter(
            "rapo_reload_failures", "Changed files that could not be used.", ["file"], registry=registry
        )
        for file in ("tokens", "certificates"):
            self.reload_failures.labels(file)

    def scored(self, response: scorer_pb2.ScoreResponse, seconds: float) -> None:
        """Count an image that got its score `seconds` after it was passed on."""
        self.images.labels("OK").inc()
        timings = response.timings
        inside = (timings.decode_ms, timings.queue_ms, timings.generate_ms)
        outside = max(seconds - sum(inside) / 1000, 0.0)
        for stage, value in zip(_STAGES, (*(ms / 1000 for ms in inside), outside), strict=True):
            self.stage_seconds.labels(stage).observe(value)
        self.tokens.inc(timings.completion_tokens)
        self.cached.inc(int(response.cached))
        self.scores.labels(response.model_version).observe(response.score)

    def refused(self, refusal: Refusal) -> None:
        """Count an image that got no score."""
        self.images.labels(refusal.code.name).inc()
        self.refusals.labels(refusal.reason).inc()
        if refusal.code.name == "FAILED_PRECONDITION":
            self.parse_failures.labels(refusal.reason).inc()


class MetricsPage:
    """The metrics over HTTP, and at /livez and /readyz whether the gateway's loop turns (`live`)
    and the scorer answers (`ready`): 200 or 503.

    On loopback the metrics are for callers that ask for this address or localhost: a foreign name
    may resolve to loopback, and a browser would then show the page to its site. Raises
    `ResourceError` if the port is taken; `port` 0 takes a free one.
    """

    def __init__(
        self, metrics: Metrics, host: str, port: int, live: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        page = make_wsgi_app(metrics.registry)
        probes = {"/livez": live, "/readyz": ready}
        anybody = host not in _HOSTS

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            probe = probes.get(environ.get("PATH_INFO", ""))
            if probe is not None:
                well = probe()
                start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
                return [b"ok" if well else b"not now"]
            name, _, given_port = environ.get("HTTP_HOST", "").lower().partition(":")
            if anybody or (name in _HOSTS and given_port == str(self.port)):
                return page(environ, start_response)
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"only for callers of 127.0.0.1 or localhost"]

        try:
            self._server = make_server(host, port, answer, _Server, _Handler)
        except OSError as error:
            raise ResourceError(
                f"port {port} on {host} is in use ({error.strerror}). Choose another with "
                "--set serve.gateway.metrics_port=..."
            ) from error
        self.port = int(self._server.server_port)
        self._thread = Thread(target=self._server.serve_forever, name="rapo-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # for a request that does not come whole

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scraper asks every few seconds."""

"""Tracing: OpenTelemetry traces of the gateway's calls, sent by OTLP/gRPC to a collector.

- Without a collector's address nothing is recorded.
- A call is a span of kind SERVER, in the caller's trace if the call carries a W3C `traceparent`.
- Each time that an image is passed on is a span of kind CLIENT under it, with the deployment's own
  times as attributes.
- Attributes hold ids, names, codes and times; nothing of an image, a token, a rationale or a score.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rapo.errors import ConfigError
from rapo.v1 import scorer_pb2
from rapo.wire import SERVICE
from services.statuses import outward

# For each batch of spans, and for all that is left when the gateway stops.
_EXPORT_LIMIT_S, _CLOSE_LIMIT_S = 2.0, 3.0
_CONTEXT = ("traceparent", "tracestate")
# Statuses that are the server's own failure, as in OpenTelemetry's conventions for gRPC; the others
# are the caller's.
_SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


class Tracing:
    """Makes spans and sends them to `endpoint`, an URL of http (no TLS) or https. Without one its
    spans do nothing.

    A caller decides whether its call is sampled; of calls that leave it open, `share` are. The
    exporter reads its other settings (certificates, headers) from OpenTelemetry's own variables,
    `OTEL_EXPORTER_OTLP_*`. Raises `ConfigError` if it cannot use them.
    """

    def __init__(self, endpoint: str | None = None, share: float = 1.0) -> None:
        self._shutdowns: list[Callable[[], object]] = []
        self._tracer: trace.Tracer | None = None
        self._propagator = TraceContextTextMapPropagator()
        if endpoint is not None:
            try:
                self._tracer = self._connect(endpoint, share)
            except Exception as error:
                raise ConfigError(
                    f"serve.gateway.otlp = {endpoint}: OpenTelemetry's exporter refuses the OTEL_* variables of this environment "
                    f"({type(error).__name__}: {error})"
                ) from error

    def _connect(self, endpoint: str, share: float) -> trace.Tracer:
        # Here, because most gateways need none of it.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        resource = Resource.create({"service.name": "rapo-gateway"})
        # Not the process's global provider, which may belong to other code.
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_LIMIT_S)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._shutdowns = [provider.shutdown, exporter.shutdown]
        return provider.get_tracer("rapo.gateway")

    def close(self) -> None:
        """Send what is left. What a slow collector does not take within 3 s is lost."""
        for shutdown in self._shutdowns:
            thread = threading.Thread(target=shutdown, daemon=True)
            thread.start()
            thread.join(_CLOSE_LIMIT_S)
            if not thread.is_alive():
                break  # otherwise the exporter is closed under the provider

    def start_call(self, method: str, context: grpc.aio.ServicerContext) -> Span:
        """The span of a call that begins; `end_call` ends it."""
        if self._tracer is None:
            return trace.INVALID_SPAN
        metadata = context.invocation_metadata() or ()
        sent = {key: value for key, value in metadata if key in _CONTEXT and isinstance(value, str)}
        return self._tracer.start_span(
            f"{SERVICE}/{method}",
            self._propagator.extract(sent, trace.set_span_in_context(trace.INVALID_SPAN)),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method},
        )

    def end_call(self, span: Span, code: str, reason: str, *, call_id: str, client: str, images: int) -> None:
        """End the span of a call with its status."""
        if span.is_recording():
            span.set_attributes({"rapo.request_id": call_id, "rapo.client": client, "rapo.images": images})
            _set_outcome(span, code, reason, failed=code in _SERVER_FAULTS)
        span.end()

    @contextmanager
    def image_span(self, request_id: str) -> Iterator[ImageSpan]:
        """The span of an image that is passed on inside the block, under the current span.

        The caller reports the response to it. A failure is taken from the exception; if there is
        neither, the work was cancelled.
        """
        if self._tracer is None:
            yield ImageSpan(trace.INVALID_SPAN)
            return
        span = self._tracer.start_span("score an image", None, SpanKind.CLIENT, {"rapo.request_id": request_id})
        image = ImageSpan(span)
        try:
            yield image
        except grpc.aio.AioRpcError as error:
            refusal = outward(error)
            image.outcome = refusal.code.name, refusal.reason
            raise
        finally:
            image.end()


class ImageSpan:
    """The span of one image that is passed on. `outcome` is a status name and a reason."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.outcome = ("CANCELLED", "")

    def scored(self, response: scorer_pb2.ScoreResponse) -> None:
        """The image has its score."""
        self.outcome = ("OK", "")
        if self._span.is_recording():
            timings = response.timings
            self._span.set_attributes(
                {
                    "rapo.model_version": response.model_version,
                    "rapo.readout": scorer_pb2.Readout.Name(response.readout),
                    "rapo.cached": response.cached,
                    "rapo.decode_ms": timings.decode_ms,
                    "rapo.queue_ms": timings.queue_ms,
                    "rapo.generate_ms": timings.generate_ms,
                    "rapo.completion_tokens": timings.completion_tokens,
                }
            )

    def end(self) -> None:
        """End the span with its outcome."""
        code, reason = self.outcome
        if self._span.is_recording():
            _set_outcome(self._span, code, reason, failed=code != "OK")
        self._span.end()


def trace_of(span: Span) -> str:
    """The id of the span's trace, as 32 hex digits; empty for a span that is not sent."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else ""


def _set_outcome(span: Span, code: str, reason: str, *, failed: bool) -> None:
    span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    if reason:
        span.set_attribute("rapo.reason", reason)
    if failed:
        span.set_status(Status(StatusCode.ERROR, reason or code))

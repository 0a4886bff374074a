"""Tracing: spans as a collector gets them over the wire, after the gateway has stopped."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from serving import FakeDeployment, call_lines, gateway_on

from rapo.config import GatewayConfig, ServeConfig
from rapo.errors import ConfigError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import SERVICE
from services.gateway.exposure import check_access
from services.gateway.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[trace_pb2.Span]:
        return [
            span for request in self.requests for r in request.resource_spans for s in r.scope_spans for span in s.spans
        ]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait(5)


def values(span: trace_pb2.Span) -> dict[str, str | bool | int | float]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def score(
    stub: scorer_pb2_grpc.AestheticScorerStub, image: bytes, request_id: str, traceparent: str | None = None
) -> None:
    metadata = (("traceparent", traceparent),) if traceparent else ()
    request = scorer_pb2.ScoreRequest(image=image, request_id=request_id)
    stub.Score.future(request, metadata=metadata, timeout=5).exception()


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Collector, list[str]]]:
    with call_lines() as lines, collecting() as (collector, endpoint):
        with gateway_on(FakeDeployment(), otlp=endpoint) as gateway, grpc.insecure_channel(gateway.address) as channel:
            stub = scorer_pb2_grpc.AestheticScorerStub(channel)
            score(stub, b"0.123456", "good", f"00-{TRACE}-{PARENT}-01")
            score(stub, b"bad", "bad")
            score(stub, b"0.5", "unsampled", f"00-{TRACE}-{PARENT}-00")
            score(stub, b"0.5", "garbled", "00-nonsense")
            items = [scorer_pb2.ScoreRequest(image=image, request_id=image.decode()) for image in (b"0.7", b"gone")]
            stub.ScoreBatch(scorer_pb2.ScoreBatchRequest(requests=items), timeout=10)
            list(stub.Explain(scorer_pb2.ScoreRequest(image=b"0.6", request_id="explained"), timeout=5))
            list(stub.ScoreStream(iter([scorer_pb2.ScoreRequest(image=b"0.8", request_id="streamed")]), timeout=5))
            with pytest.raises(grpc.RpcError):
                stub.Score(scorer_pb2.ScoreRequest(image=b"held:0.5", request_id="late"), timeout=1.0)
            unknown = scorer_pb2.ScoreRequest(image=b"0.5", request_id="nowhere", model_version="v99")
            stub.Score.future(unknown, timeout=5).exception()
        yield collector, lines


def spans_of(collector: Collector, request_id: str) -> dict[int, trace_pb2.Span]:
    return {span.kind: span for span in collector.spans if values(span)["rapo.request_id"] == request_id}


def test_a_call_is_a_span_in_its_callers_trace_with_the_image_under_it(
    traced: tuple[Collector, list[str]],
) -> None:
    spans = spans_of(traced[0], "good")
    call, image = spans[trace_pb2.Span.SPAN_KIND_SERVER], spans[trace_pb2.Span.SPAN_KIND_CLIENT]
    assert (call.name, call.trace_id.hex(), call.parent_span_id.hex()) == (f"{SERVICE}/Score", TRACE, PARENT)
    assert (image.trace_id, image.parent_span_id) == (call.trace_id, call.span_id)
    assert values(call)["rpc.grpc.status_code"] == 0
    shown = {key: values(image)[key] for key in ("rapo.model_version", "rapo.decode_ms", "rapo.generate_ms")}
    assert shown == {"rapo.model_version": "v7", "rapo.decode_ms": 1, "rapo.generate_ms": 3}
    assert call.start_time_unix_nano <= image.start_time_unix_nano < image.end_time_unix_nano
    resource = traced[0].requests[0].resource_spans[0].resource.attributes
    assert {item.key: item.value.string_value for item in resource}["service.name"] == "rapo-gateway"


def test_failures_are_told_apart_from_refusals(traced: tuple[Collector, list[str]]) -> None:
    spans = spans_of(traced[0], "bad")
    call, image = spans[trace_pb2.Span.SPAN_KIND_SERVER], spans[trace_pb2.Span.SPAN_KIND_CLIENT]
    assert values(call)["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert values(image)["rapo.reason"] == "unknown_format"
    assert call.status.code == trace_pb2.Status.STATUS_CODE_UNSET  # the caller's mistake, not the service's
    assert image.status.code == trace_pb2.Status.STATUS_CODE_ERROR


def test_the_caller_decides_what_is_sampled_and_garbage_begins_a_trace(traced: tuple[Collector, list[str]]) -> None:
    assert spans_of(traced[0], "unsampled") == {}
    call = spans_of(traced[0], "garbled")[trace_pb2.Span.SPAN_KIND_SERVER]
    assert (call.parent_span_id, call.trace_id.hex() != TRACE) == (b"", True)


def test_each_image_of_a_batch_is_a_span_under_the_call(traced: tuple[Collector, list[str]]) -> None:
    (batch,) = [span for span in traced[0].spans if span.name.endswith("/ScoreBatch")]
    under = [values(span)["rapo.request_id"] for span in traced[0].spans if span.parent_span_id == batch.span_id]
    assert under.count("0.7") == 1
    assert under.count("gone") > 1  # each time that it was passed on
    assert values(batch)["rapo.images"] == 2


@pytest.mark.parametrize(("method", "request_id"), [("Explain", "explained"), ("ScoreStream", "streamed")])
def test_streams_are_traced_alike(traced: tuple[Collector, list[str]], method: str, request_id: str) -> None:
    (call,) = [span for span in traced[0].spans if span.name == f"{SERVICE}/{method}"]
    image = spans_of(traced[0], request_id)[trace_pb2.Span.SPAN_KIND_CLIENT]
    assert (image.trace_id, image.parent_span_id) == (call.trace_id, call.span_id)
    assert values(image)["rpc.grpc.status_code"] == values(call)["rpc.grpc.status_code"] == 0


def test_what_ran_out_of_time_says_so_and_what_was_not_passed_on_has_no_span_of_its_own(
    traced: tuple[Collector, list[str]],
) -> None:
    late = spans_of(traced[0], "late")[trace_pb2.Span.SPAN_KIND_SERVER]
    assert values(late)["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert late.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    nowhere = spans_of(traced[0], "nowhere")
    assert list(nowhere) == [trace_pb2.Span.SPAN_KIND_SERVER]
    assert values(nowhere[trace_pb2.Span.SPAN_KIND_SERVER])["rapo.reason"] == "unknown_version"


def test_the_log_names_the_trace_and_no_span_holds_an_image_or_a_score(traced: tuple[Collector, list[str]]) -> None:
    (line,) = [line for line in traced[1] if "id=good" in line]
    assert line.endswith(f" trace={TRACE}")
    (line,) = [line for line in traced[1] if "id=unsampled" in line]
    assert "trace=" not in line
    sent = b"".join(request.SerializeToString() for request in traced[0].requests)
    for secret in (b"0.123456", b"the-secret", b"soft light"):
        assert secret not in sent


def test_a_collector_that_is_not_there_holds_nothing_up() -> None:
    began = time.monotonic()
    with (
        gateway_on(FakeDeployment(), otlp="http://127.0.0.1:9") as gateway,
        grpc.insecure_channel(gateway.address) as channel,
    ):
        response = scorer_pb2_grpc.AestheticScorerStub(channel).Score(scorer_pb2.ScoreRequest(image=b"0.5"), timeout=5)
        assert response.score == 0.5
    assert time.monotonic() - began < 10


def test_a_collector_that_is_silent_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracing = Tracing(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for _ in range(2000):
            with tracing.image_span("mine"):
                pass
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 8


def test_no_call_is_traced_at_a_share_of_zero() -> None:
    with collecting() as (collector, endpoint):
        tracing = Tracing(endpoint, 0.0)
        with tracing.image_span("mine"):
            pass
        tracing.close()
        assert collector.spans == []


def test_variables_that_the_exporter_refuses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zipped")
    with pytest.raises(ConfigError, match=r"serve\.gateway\.otlp.*OTEL_.*zipped"):
        check_access(ServeConfig(gateway=GatewayConfig(otlp="http://127.0.0.1:4317")))


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4317", "ftp://collector:4317", "http://collector", "http://collector:4317/v1/traces"]
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp"):
        GatewayConfig(otlp=endpoint)

"""Gateway, over an upstream in this process that answers as Ray Serve and the deployment would."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace

import grpc
import pytest
from fake_scorer import serving
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rapo.client import CallError, ScorerClient
from rapo.config import GatewayConfig
from rapo.errors import ResourceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import REASON_KEY, SERVICE
from services.gateway import server as module
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import SECRET_KEY


class Upstream(scorer_pb2_grpc.AestheticScorerServicer):
    """Records what arrives; answers with `status` (and a reason, where the deployment is to have
    set it)."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.status: tuple[grpc.StatusCode, str, str | None] | None = None
        self.model_status: grpc.StatusCode | None = None
        self.delay_s = 0.0
        self.cancelled = threading.Event()

    def Score(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        context.add_callback(lambda: None if context.code() == grpc.StatusCode.OK else self.cancelled.set())
        time.sleep(self.delay_s)
        if self.status is not None:
            code, details, reason = self.status
            context.set_trailing_metadata([("request_id", "inner"), *([(REASON_KEY, reason)] if reason else [])])
            context.abort(code, details)
        return scorer_pb2.ScoreResponse(score=len(request.image) / 1000, request_id=request.request_id)

    def GetModel(self, request, context):
        if self.model_status is not None:
            context.abort(self.model_status, "traceback of the model")
        return scorer_pb2.GetModelResponse(model_version="v7")


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def settings(upstream: Upstream) -> Iterator[GatewaySettings]:
    with serving(upstream) as address:
        yield GatewaySettings(
            host="127.0.0.1",
            port=0,
            upstreams=(address,),
            secret="the-secret",
            routes=Routes("v7", {"v7": "app"}),
            max_message_bytes=100_000,
            request_timeout_s=20.0,
            options=GatewayConfig(grace_s=1.0),
        )


@pytest.fixture
def gateway(settings: GatewaySettings) -> Iterator[Gateway]:
    with Gateway(settings) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[ScorerClient]:
    with ScorerClient(gateway.address, timeout=10, attempts=1) as client:
        yield client


def test_calls_pass_with_the_secret_and_the_application(client: ScorerClient, upstream: Upstream) -> None:
    result = client.score(b"x" * 500, request_id="mine")
    assert (result.score, result.request_id) == (0.5, "mine")
    assert upstream.metadata[0][SECRET_KEY] == "the-secret"
    assert upstream.metadata[0]["application"] == "app"
    assert client.model().model_version == "v7"


def test_metadata_of_callers_stays_outside(gateway: Gateway, upstream: Upstream) -> None:
    forged = ((SECRET_KEY, "forged"), ("application", "other"), ("multiplexed_model_id", "m"), ("authorization", "b"))
    with grpc.insecure_channel(gateway.address) as channel:
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        stub.Score(scorer_pb2.ScoreRequest(image=b"x"), metadata=forged, timeout=5)
    seen = upstream.metadata[0]
    assert (seen[SECRET_KEY], seen["application"]) == ("the-secret", "app")
    assert not {"multiplexed_model_id", "authorization"} & seen.keys()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "truncated"),
        (grpc.StatusCode.FAILED_PRECONDITION, "no_answer"),
        (grpc.StatusCode.INTERNAL, "internal"),
        (grpc.StatusCode.PERMISSION_DENIED, "not_gateway"),
    ],
)
def test_the_deployments_own_status_passes_unchanged(
    client: ScorerClient, upstream: Upstream, code: grpc.StatusCode, reason: str
) -> None:
    upstream.status = (code, "the deployment's words", reason)
    with pytest.raises(CallError, match="the deployment's words") as caught:
        client.score(b"x")
    assert (caught.value.code, caught.value.reason) == (code.name, reason)


@pytest.mark.parametrize(
    ("code", "outward"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.INTERNAL, "UNAVAILABLE"),
        (grpc.StatusCode.UNKNOWN, "UNAVAILABLE"),
        (grpc.StatusCode.NOT_FOUND, "UNAVAILABLE"),
    ],
)
def test_words_of_ray_stay_inside(
    client: ScorerClient, upstream: Upstream, code: grpc.StatusCode, outward: str
) -> None:
    upstream.status = (code, 'Traceback: File "/srv/secret/path.py"', None)
    with pytest.raises(CallError) as caught:
        client.score(b"x")
    assert caught.value.code == outward
    assert "/srv" not in str(caught.value)


def test_the_deadline_is_passed_on_and_capped(gateway: Gateway, upstream: Upstream) -> None:
    for timeout in (5.0, 500.0):
        with ScorerClient(gateway.address, timeout=timeout) as client:
            client.score(b"x")
    assert 3.0 < upstream.remaining[0] < 6.0  # gRPC rounds up a little
    assert 18.0 < upstream.remaining[1] < 22.0


def test_a_caller_that_gives_up_cancels_the_work(gateway: Gateway, upstream: Upstream) -> None:
    upstream.delay_s = 2.0
    with ScorerClient(gateway.address, timeout=1.0) as client, pytest.raises(CallError) as caught:
        client.score(b"x")
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert upstream.cancelled.wait(5)


def test_garbage_is_the_callers_mistake_and_never_forwarded(gateway: Gateway, upstream: Upstream) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/Score")(b"\xff\xff\xff", timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(b"", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert upstream.metadata == []


def test_a_message_beyond_the_limit_is_refused(client: ScorerClient, upstream: Upstream) -> None:
    with pytest.raises(CallError) as caught:
        client.score(b"x" * 200_000)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert upstream.metadata == []


def health_of(gateway: Gateway, service: str) -> int:
    with grpc.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_serving(gateway: Gateway, service: str) -> None:
    assert health_of(gateway, service) == health_pb2.HealthCheckResponse.SERVING


def test_health_follows_the_upstream(
    settings: GatewaySettings, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_PERIOD_S", 0.05)

    def becomes(gateway: Gateway, status: int) -> bool:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if health_of(gateway, "") == status:
                return True
            time.sleep(0.05)
        return False

    with Gateway(settings) as gateway:
        upstream.model_status = grpc.StatusCode.INTERNAL
        assert becomes(gateway, health_pb2.HealthCheckResponse.NOT_SERVING)
        upstream.model_status = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert becomes(gateway, health_pb2.HealthCheckResponse.SERVING)


def test_an_upstream_that_is_gone_is_unavailable_and_unnamed(settings: GatewaySettings) -> None:
    with (
        Gateway(replace(settings, upstreams=("127.0.0.1:1",))) as gateway,
        ScorerClient(gateway.address, timeout=5, attempts=1) as client,
        pytest.raises(CallError) as caught,
    ):
        client.score(b"x")
    assert caught.value.code == "UNAVAILABLE"
    assert "127.0.0.1:1 " not in str(caught.value)
    assert "restarting" in str(caught.value)


def test_a_taken_port_is_named(settings: GatewaySettings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"{port}.*serve\.port"):
            Gateway(replace(settings, port=port)).start()


def test_a_second_gateway_cannot_share_the_port(gateway: Gateway, settings: GatewaySettings) -> None:
    with pytest.raises(ResourceError):
        Gateway(replace(settings, port=gateway.port)).start()


def test_stop_lets_calls_in_flight_finish(settings: GatewaySettings, upstream: Upstream) -> None:
    upstream.delay_s = 0.5
    gateway = Gateway(settings)
    gateway.start()
    with ScorerClient(gateway.address, timeout=5, attempts=1) as client, futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.score, b"x" * 100)
        deadline = time.monotonic() + 5
        while not upstream.metadata:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gateway.stop()
        assert call.result(5).score == 0.1
        with pytest.raises(CallError):
            client.score(b"x")

"""Calls whose message does not come, or not whole, at a gateway with its real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from http2_frames import END_STREAM, HEADERS, Connection, connected, half_sent
from serving import FakeDeployment, details_of, gateway_on

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import SERVICE
from services.gateway.server import Gateway

LIMIT_S = 1.0
CALLS = 400


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_on(FakeDeployment(), receive_s=LIMIT_S, health_without_token=True) as gateway:
        yield gateway


def ended(connection: Connection, streams: set[int]) -> float:
    """Read until the server has ended all of these streams; how long it took."""
    began, left = time.monotonic(), set(streams)
    for frame in connection.frames(10 * LIMIT_S):
        if frame.kind == HEADERS and frame.flags & END_STREAM:
            left.discard(frame.stream)
        if not left:
            return time.monotonic() - began
    raise AssertionError(f"the connection was closed with {len(left)} calls open")


@pytest.mark.parametrize("method", [f"/{SERVICE}/Score", f"/{SERVICE}/Explain", "/grpc.health.v1.Health/Check"])
def test_half_sent_calls_end_while_others_are_answered(gateway: Gateway, method: str) -> None:
    streams = set(range(1, 2 * CALLS, 2))
    with (
        connected(gateway.port) as connection,
        grpc.insecure_channel(gateway.address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        connection.send(b"".join(half_sent(method, stream) for stream in sorted(streams)))
        waiting = pool.submit(ended, connection, streams)
        answers = 0
        while not waiting.done():
            assert stub.Score(scorer_pb2.ScoreRequest(image=b"0.5"), timeout=5).score == 0.5
            answers += 1
        assert waiting.result() >= 0.8 * LIMIT_S
        assert answers >= 3  # far more on an idle machine
        # The connection itself has done nothing wrong.
        connection.send(half_sent(method, 2 * CALLS + 1))
        ended(connection, {2 * CALLS + 1})


def test_a_late_request_is_told_so(gateway: Gateway) -> None:
    never = threading.Event()
    with grpc.insecure_channel(gateway.address) as channel:
        with pytest.raises(grpc.RpcError, match="did not come whole within 1 s") as caught:
            channel.stream_unary(f"/{SERVICE}/Score")(iter(lambda: never.wait(30), True), timeout=10)
        never.set()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert details_of(caught.value)["ErrorInfo"].reason == "late_request"


def test_a_call_without_a_message_is_the_callers_mistake(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{SERVICE}/Score")(iter(()), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_may_take_longer_than_the_request() -> None:
    with gateway_on(FakeDeployment(), receive_s=0.2) as gateway, grpc.insecure_channel(gateway.address) as channel:
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        assert stub.Score(scorer_pb2.ScoreRequest(image=b"slow:0.5"), timeout=5).score == 0.5

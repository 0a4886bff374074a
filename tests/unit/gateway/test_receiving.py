"""Calls whose message does not come, or not whole, at a gateway with its real server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from serving import FakeDeployment, details_of, gateway_on

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import SERVICE
from services.gateway.server import Gateway

LIMIT_S = 1.0
CALLS = 400
HEADERS, DATA, END_STREAM, END_HEADERS = 1, 0, 1, 4


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_on(FakeDeployment(), receive_s=LIMIT_S, health_without_token=True) as gateway:
        yield gateway


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def half_sent(method: str, stream: int) -> bytes:
    """A call's headers, and 20 of the 1,000 bytes that its message is to have."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "127.0.0.1",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode() for name, value in fields.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block) + frame(
        DATA, 0, stream, b"\0" + struct.pack(">I", 1000) + b"x" * 20
    )


def ended(connection: socket.socket, streams: set[int], limit_s: float) -> float:
    """Read until the server has ended all of these streams; how long it took."""
    began, buffer = time.monotonic(), b""
    left = set(streams)
    while left:
        connection.settimeout(max(limit_s - (time.monotonic() - began), 0.01))
        got = connection.recv(65536)
        assert got, f"the connection was closed with {len(left)} calls open"
        buffer += got
        while len(buffer) >= 9 and len(buffer) >= (size := 9 + int.from_bytes(buffer[:3], "big")):
            kind, flags, stream = buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big")
            if kind == HEADERS and flags & END_STREAM:
                left.discard(stream)
            buffer = buffer[size:]
    return time.monotonic() - began


@pytest.mark.parametrize("method", [f"/{SERVICE}/Score", f"/{SERVICE}/Explain", "/grpc.health.v1.Health/Check"])
def test_half_sent_calls_end_while_others_are_answered(gateway: Gateway, method: str) -> None:
    streams = set(range(1, 2 * CALLS, 2))
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection,
        grpc.insecure_channel(gateway.address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(b"".join(half_sent(method, stream) for stream in sorted(streams)))
        waiting = pool.submit(ended, connection, streams, 10 * LIMIT_S)
        answers = 0
        while not waiting.done():
            assert stub.Score(scorer_pb2.ScoreRequest(image=b"0.5"), timeout=5).score == 0.5
            answers += 1
        assert waiting.result() >= 0.8 * LIMIT_S
        assert answers > 10
        # The connection itself has done nothing wrong.
        connection.sendall(half_sent(method, 2 * CALLS + 1))
        ended(connection, {2 * CALLS + 1}, 10 * LIMIT_S)


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

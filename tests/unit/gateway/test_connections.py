"""What a connection may do, whatever is called over it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import grpc
import pytest
from http2_frames import GOAWAY, PING, SETTINGS, connected, frame
from serving import Authority, FakeDeployment, gateway_on

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.gateway import server

_MAX_CONCURRENT_STREAMS = 3  # its number among HTTP/2's settings


def test_a_connection_has_a_limit_of_calls() -> None:
    with gateway_on(FakeDeployment()) as gateway, connected(gateway.port) as connection:
        told = next(one for one in connection.frames(5) if one.kind == SETTINGS)
        values = {
            int.from_bytes(told.body[at : at + 2], "big"): int.from_bytes(told.body[at + 2 : at + 6], "big")
            for at in range(0, len(told.body), 6)
        }
        assert values[_MAX_CONCURRENT_STREAMS] == 1024


def test_a_flood_of_pings_ends_the_connection() -> None:
    with gateway_on(FakeDeployment()) as gateway, connected(gateway.port) as connection:
        connection.send(frame(PING, 0, 0, b"12345678") * 4)
        kinds = [one.kind for one in connection.frames(5)]
        assert kinds[-1] == GOAWAY


@pytest.mark.parametrize(("size", "code"), [(8_000, "OK"), (20_000, "RESOURCE_EXHAUSTED")])
def test_metadata_has_a_limit(size: int, code: str) -> None:
    with gateway_on(FakeDeployment()) as gateway, grpc.insecure_channel(gateway.address) as channel:
        stub = scorer_pb2_grpc.AestheticScorerStub(channel)
        call = stub.Score.future(scorer_pb2.ScoreRequest(image=b"0.5"), metadata=[("x-odd", "a" * size)], timeout=10)
        assert call.code().name == code


def test_a_handshake_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE_LIMIT_S", 1)
    certificate, key = Authority(tmp_path).issue("server")
    with (
        gateway_on(FakeDeployment(), certificate=certificate, key=key) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as silent,
    ):
        began = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began < 5

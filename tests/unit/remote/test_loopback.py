"""Loopback: a gRPC server that asks for every interface gets loopback."""

from __future__ import annotations

import asyncio
import os

import grpc.aio
import pytest
from grpc.aio import _server

from cluster.remote.loopback import listen_on_loopback
from tests.listening import listeners


async def bound(address: str) -> bool:
    server = grpc.aio.server()
    port = server.add_insecure_port(address)
    await server.start()
    found = [listener for listener in listeners(os.getpid()) if listener.port == port]
    await server.stop(None)
    assert len(found) == 1
    return found[0].loopback


def test_servers_for_every_interface_listen_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server.Server, "add_insecure_port", _server.Server.add_insecure_port)
    assert not asyncio.run(bound("[::]:0"))
    listen_on_loopback()
    assert asyncio.run(bound("[::]:0"))
    assert asyncio.run(bound("127.0.0.1:0"))

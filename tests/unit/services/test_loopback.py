"""Loopback: a gRPC server that asks for every interface gets loopback; Serve's HTTP side is for
this machine's names."""

from __future__ import annotations

import asyncio
import os

import grpc.aio
import pytest
from grpc.aio import _server
from ray.serve._private.http_util import configure_http_middlewares
from ray.serve.config import HTTPOptions
from starlette.applications import Starlette
from starlette.testclient import TestClient

from services import loopback
from services.loopback import listen_on_loopback, listen_where_ray_does
from tests.listening import listeners


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test changes for the whole process ends with it."""
    monkeypatch.setattr(_server.Server, "add_insecure_port", _server.Server.add_insecure_port)


async def bound(address: str) -> bool:
    server = grpc.aio.server()
    port = server.add_insecure_port(address)
    await server.start()
    found = [listener for listener in listeners(os.getpid()) if listener.port == port]
    await server.stop(None)
    assert len(found) == 1
    return found[0].loopback


def test_servers_for_every_interface_listen_on_loopback() -> None:
    assert not asyncio.run(bound("[::]:0"))
    listen_on_loopback()
    assert asyncio.run(bound("[::]:0"))
    assert asyncio.run(bound("127.0.0.1:0"))


@pytest.mark.parametrize(("node", "expected"), [("127.0.0.1", True), ("::1", True), ("10.0.0.5", False)])
def test_a_replica_listens_where_its_node_does(monkeypatch: pytest.MonkeyPatch, node: str, expected: bool) -> None:
    monkeypatch.setattr(loopback, "get_node_ip_address", lambda: node)
    listen_where_ray_does()
    assert asyncio.run(bound("[::]:0")) is expected


def proxys_status(monkeypatch: pytest.MonkeyPatch, node: str, host: str) -> int:
    """What Serve's HTTP side on a node of this address answers to a Host header."""
    monkeypatch.setattr(loopback, "get_node_ip_address", lambda: node)
    monkeypatch.setattr(
        "ray.serve._private.http_util.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "services.loopback.guard_proxy"
    )
    app = Starlette(middleware=configure_http_middlewares(HTTPOptions()).middlewares)
    return TestClient(app).get("/", headers={"Host": host}).status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 404), ("localhost", 404), ("evil.example:8000", 400), ("127.0.0.1.evil.example", 400)],
)
def test_serves_http_side_is_for_this_machines_names(monkeypatch: pytest.MonkeyPatch, host: str, status: int) -> None:
    assert proxys_status(monkeypatch, "127.0.0.1", host) == status
    assert asyncio.run(bound("[::]:0")), "the proxy's other server starts after this"


def test_a_clusters_proxy_that_inherits_the_variable_serves_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxys_status(monkeypatch, "10.0.0.5", "scorer.example") == 404
    assert not asyncio.run(bound("[::]:0"))

"""Ports: all that a running service opens, by looking at its processes."""

from __future__ import annotations

import http.client
import os
import re
import socket
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest

from rapo.config import ImageConfig, load_config
from services.app import ScorerServer
from services.names import message_limit
from tests.integration.test_serve_command import service
from tests.listening import Listener, listeners

pytestmark = [pytest.mark.integration, pytest.mark.long]

_PER_CALL = "/rapo.v1.AestheticScorer/Score"


def own_address() -> str:
    """The address under which other machines would reach this one; loopback without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.200", 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def reachable(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def serve_port(found: list[Listener]) -> int:
    """The port of Serve's gRPC proxy, found by asking."""
    for listener in found:
        if listener.process.startswith("ray::Proxy"):
            with grpc.insecure_channel(f"127.0.0.1:{listener.port}") as channel, suppress(grpc.RpcError):
                channel.unary_unary("/ray.serve.RayServeAPIService/Healthz")(b"", timeout=10)
                return listener.port
    raise AssertionError(f"Serve's gRPC proxy is not among {found}")


def test_nothing_but_the_gateway_can_be_reached_from_elsewhere(taught_model: Path) -> None:
    options = ["--set", "serve.port=0", "--set", "serve.threads=1", "--set", "serve.gateway.metrics_port=0"]
    with service("serve", str(taught_model), *options) as running:
        running.hears(r"answers at 127\.0\.0\.1:(\d+)")
        found = listeners(running.process.pid)
        kinds = Counter(re.sub(r"[^a-z:]*$", "", listener.process.lower()) for listener in found)
        assert len(kinds) >= 5, kinds  # the driver, Ray's control store, its node manager, Serve, the replica
        assert [listener for listener in found if not listener.loopback] == []
        elsewhere = own_address()
        if not elsewhere.startswith("127."):
            assert [listener for listener in found if reachable(elsewhere, listener.port)] == []

        port = serve_port(found)
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)]) as channel:
            body = bytes(message_limit(ImageConfig()) + 2**17)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(_PER_CALL)(body, timeout=30)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

        log = Path(running.hears(r"Library output: (\S+)")[1])
        assert (log.parent.stat().st_mode & 0o777, log.parent.stat().st_uid) == (0o700, os.getuid())
        sessions = log.parent / "ray" / "session_latest"
        assert sessions.exists()


def http_status(port: int, host: str) -> int | None:
    """What Serve's health page at this port answers; None where none is."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/-/healthz", headers={"Host": host})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


def test_the_serving_stage_of_a_run_stays_on_loopback(taught_model: Path, local_ray: None) -> None:
    config = load_config(None, ["serve.port=0", "serve.threads=1"])
    with ScorerServer(config, taught_model, "v1"):
        found = [listener for listener in listeners(os.getpid()) if listener.process.startswith("ray::")]
        assert {"ray::Pr", "ray::Se"} <= {listener.process[:7] for listener in found}, found
        assert [listener for listener in found if not listener.loopback] == []
        proxy = [listener.port for listener in found if listener.process.startswith("ray::Proxy")]
        (page,) = [port for port in proxy if http_status(port, "localhost") == 200]
        assert http_status(page, f"evil.example:{page}") == 400

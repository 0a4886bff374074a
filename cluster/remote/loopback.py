"""Loopback: keeps the gRPC servers of Ray Serve's processes on loopback.

Serve binds its proxy and its replicas to every interface, and has no setting for it.
"""

from __future__ import annotations

from grpc.aio import _server

_EVERYWHERE = "[::]:"


def listen_on_loopback() -> None:
    """Let this process's gRPC servers listen on 127.0.0.1 where they ask for every interface. Ray
    calls it as a worker starts."""
    add_port = _server.Server.add_insecure_port

    def add_insecure_port(self: _server.Server, address: str) -> int:
        return add_port(self, address.replace(_EVERYWHERE, "127.0.0.1:"))

    _server.Server.add_insecure_port = add_insecure_port

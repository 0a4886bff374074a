"""Loopback: keeps the servers of Ray Serve's processes to callers of this machine, on a local Ray.

- Serve binds the gRPC servers of its proxy and its replicas to every interface, and has no setting
  for it. They ask for loopback instead.
- Serve's HTTP proxy, which is on loopback, refuses a Host header other than this machine: a foreign
  name may resolve to loopback, and a browser would then let its site read the answer.
"""

from __future__ import annotations

import ipaddress

from grpc.aio import _server
from ray.util import get_node_ip_address
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rapo.util.freed_memory import return_freed_memory

_EVERYWHERE = "[::]:"


def listen_on_loopback() -> None:
    """Let this process's gRPC servers listen on 127.0.0.1 where they ask for every interface."""
    add_port = _server.Server.add_insecure_port

    def add_insecure_port(self: _server.Server, address: str) -> int:
        return add_port(self, address.replace(_EVERYWHERE, "127.0.0.1:"))

    _server.Server.add_insecure_port = add_insecure_port


def on_loopback() -> bool:
    """Whether this process's Ray node is on loopback, as that of a local Ray is."""
    return ipaddress.ip_address(get_node_ip_address()).is_loopback


def listen_where_ray_does() -> None:
    """`listen_on_loopback`, if this process's Ray node is there itself."""
    if on_loopback():
        listen_on_loopback()


def guard_proxy() -> list[Middleware]:
    """What Serve's proxy puts before its HTTP side: nothing on the nodes of a cluster, which may
    have inherited the variable. Serve calls it in the proxy's process, before either server starts
    (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`).

    There it also has the proxy return the memory that large messages took.
    """
    return_freed_memory()
    if not on_loopback():
        return []
    listen_on_loopback()
    return [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)]

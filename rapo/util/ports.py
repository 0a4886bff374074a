"""Ports: whether a TCP port can be listened on, and one that is free."""

from __future__ import annotations

import socket


def bind_error(host: str, port: int) -> str | None:
    """Why `port` on `host` cannot be listened on; None if it can. A port in TIME_WAIT can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port() -> int:
    """A port that is free on every interface; another process may take it at any time."""
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]

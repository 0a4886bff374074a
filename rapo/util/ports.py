"""Ports: whether a server can listen on one."""

from __future__ import annotations

import socket


def port_problem(host: str, port: int) -> str | None:
    """The system's reason why nothing can listen there, None where the port is free or 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free enough
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None

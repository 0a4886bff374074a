"""Exposure check: what must hold before the scorer is opened to a network, checked before anything
starts."""

from __future__ import annotations

import ipaddress

from rapo.config import ServeConfig
from rapo.errors import ConfigError, ResourceError
from rapo.util.ports import port_problem
from services.gateway.tls import certificates
from services.gateway.tokens import read_tokens
from services.gateway.tracing import Tracing

_ADVICE = (
    "Give a certificate and its key (serve.gateway.certificate, serve.gateway.key), and say who may call: a tokens file "
    "(serve.gateway.tokens; `rapo token NAME` prints a line of it) or a CA of client certificates "
    '(serve.gateway.client_ca). Where a mesh ends TLS, say so with serve.gateway.tls_at = "mesh". Or use 127.0.0.1. '
    "docs/gateway.md has the steps."
)


def check_access(settings: ServeConfig) -> None:
    """Raise `ConfigError` for a host other than loopback without TLS and known callers, for
    certificate, key, CA or tokens files that cannot be used, and for traces that cannot be sent."""
    gateway = settings.gateway
    loopback = _is_loopback("serve.host", settings.host)
    _is_loopback("serve.gateway.metrics_host", gateway.metrics_host)
    encrypted = certificates(gateway) is not None
    behind_mesh = gateway.tls_at == "mesh"
    if encrypted and behind_mesh:
        raise ConfigError(
            'serve.gateway.tls_at = "mesh" and serve.gateway.certificate exclude each other: TLS ends at one of them'
        )
    if gateway.tokens is not None:
        read_tokens(gateway.tokens)
    Tracing(gateway.otlp, gateway.trace_share).close()
    if loopback:
        return
    wanted = (
        ("TLS", encrypted or behind_mesh),
        ("a token file or client CA", gateway.tokens is not None or gateway.client_ca is not None),
    )
    if missing := " and ".join(what for what, there in wanted if not there):
        raise ConfigError(
            f"serve.host = {settings.host!r} would open the scorer to the network without {missing}. {_ADVICE}"
        )


def check_address(settings: ServeConfig) -> None:
    """Raise `ConfigError` for an address that is not safe to serve, `ResourceError` for a port that
    is taken."""
    check_access(settings)
    problem = port_problem(settings.host, settings.port)
    if problem is not None:
        raise ResourceError(
            f"port {settings.port} on {settings.host} is in use ({problem}). Stop what listens there, or "
            "choose another port with --set serve.port=..."
        )


def _is_loopback(key: str, host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"{key} = {host!r}: give an IP address or localhost") from error

"""Exposure check: what must hold before the scorer is opened to a network, checked before anything
starts."""

from __future__ import annotations

import ipaddress

from rapo.config import ServeConfig
from rapo.errors import ConfigError
from services.gateway.tls import certificates
from services.gateway.tokens import read_tokens
from services.gateway.tracing import Tracing

_ADVICE = (
    "Give a certificate and its key (serve.gateway.certificate, serve.gateway.key), and say who may call: a tokens file "
    "(serve.gateway.tokens; `rapo token NAME` prints a line of it) or a CA of client certificates "
    "(serve.gateway.client_ca). Or use 127.0.0.1. docs/serving.md has the steps."
)


def check_access(settings: ServeConfig) -> None:
    """Raise `ConfigError` for a host other than loopback without TLS and known callers, for
    certificate, key, CA or tokens files that cannot be used, and for traces that cannot be sent."""
    try:
        loopback = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError as error:
        raise ConfigError(f"serve.host = {settings.host!r}: give an IP address or localhost") from error
    gateway = settings.gateway
    encrypted = certificates(gateway) is not None
    if gateway.tokens is not None:
        read_tokens(gateway.tokens)
    Tracing(gateway.otlp, gateway.trace_share).close()
    if loopback:
        return
    known = gateway.tokens is not None or gateway.client_ca is not None
    if not (encrypted and known):
        missing = " and ".join(
            what for what, there in (("TLS", encrypted), ("a token file or client CA", known)) if not there
        )
        raise ConfigError(
            f"serve.host = {settings.host!r} would open the scorer to the network without {missing}. {_ADVICE}"
        )

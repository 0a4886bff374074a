"""Gateway command: a gateway in a process of its own, in front of a Ray Serve that runs elsewhere.

- It keeps nothing that another gateway needs: several may stand behind one address. Rate limits
  (`serve.gateway.rate`, `max_calls`) therefore hold per gateway.
- It starts without the scorer, and is ready when the scorer answers.
- SIGTERM drains: the health status turns, no new call is taken, those in flight finish within
  `serve.gateway.grace_s`.
"""

from __future__ import annotations

import logging
import re
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rapo.config import Config
from rapo.errors import ConfigError
from services.gateway.exposure import check_address
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import message_limit, read_secret

_POLL_S = 1.0
# A host name or address, IPv6 in brackets, and a port.
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")


def gateway_settings(config: Config, upstreams: Sequence[str], secret_file: Path) -> GatewaySettings:
    """The settings of a gateway that finds out itself what is served.

    `upstreams` are Serve's gRPC proxies (host:port), `secret_file` holds what their replicas know.
    Raises `ConfigError` for those that cannot be used, and what `check_address` raises.
    """
    for address in upstreams:
        if not _ADDRESS.fullmatch(address):
            raise ConfigError(f"--upstream {address!r}: give HOST:PORT of a gRPC proxy of Ray Serve, such as ray:9000")
    check_address(config.serve)
    settings = config.serve
    return GatewaySettings(
        host=settings.host,
        port=settings.port,
        upstreams=tuple(upstreams),
        secret=read_secret(secret_file),
        routes=Routes(),
        max_message_bytes=message_limit(config.image),
        request_timeout_s=settings.request_timeout_s,
        image=config.image,
        options=settings.gateway,
        gamma=config.rapo.reward.gamma,
        max_in_flight=settings.most_in_flight,
        discover=True,
    )


def run_gateway(config: Config, upstreams: Sequence[str], secret_file: Path, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then drain and stop."""
    settings = gateway_settings(config, upstreams, secret_file)
    logging.basicConfig(format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s")
    for name in ("rapo", "services"):
        logging.getLogger(name).setLevel(logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Gateway(settings) as gateway:
        say(f"gateway of {', '.join(upstreams)} answers at {gateway.address}")
        if gateway.metrics_port is not None:
            say(f"metrics and probes at {config.serve.gateway.metrics_host}:{gateway.metrics_port}")
        if secret_file.stat().st_mode & stat.S_IROTH:
            say(f"warning: every user of this machine can read {secret_file}; chmod o-r takes that from them")
        while not stop.wait(timeout=_POLL_S):
            pass
        say("draining")

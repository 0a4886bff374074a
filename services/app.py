"""ScorerServer: the whole service, which is Serve, the gateway, and a Serve application for each
model version.

Versions come and go while it runs, and no request fails because of it:

- A new version is started and warmed up beside the others before it gets a call.
- A version that goes gets no new calls, finishes those it has, and is stopped.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions

from rapo.config import Config, ServeConfig
from rapo.errors import ConfigError, ResourceError
from rapo.models.card import read_card
from rapo.util.ports import port_problem
from services.gateway.exposure import check_access
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import message_limit
from services.replica.deployment import PREFIX, build_app, delete, start, wait_until_ready

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_POLL_S = 0.2

logger = logging.getLogger(__name__)


class ScorerServer:
    """A running service; use it as a context manager. Ray must be initialised, on the cluster's
    head node.

    It starts with one version, the default. Entering takes as long as the engine takes to start, at
    most `serve.start_timeout_s` seconds. It raises `ConfigError` for an address that may not be
    served, `ResourceError` if the port is taken or the cluster serves something else already, and
    `RoleError` if a replica does not start. Leaving stops everything that was started.
    """

    def __init__(self, config: Config, model_dir: str | Path, model_version: str) -> None:
        self.config = config
        #: Port of Serve's own gRPC proxy.
        self.inner_port = 0
        self._first = Path(model_dir), model_version
        #: Proves to the deployments that a call comes from the gateway; new for each server.
        self.secret = secrets.token_urlsafe(32)
        self._folders: dict[str, Path] = {}
        self._applications: dict[str, str] = {}
        self._default = model_version
        self._numbers = itertools.count(1)
        self._changing = threading.Lock()
        self._gateway: Gateway | None = None
        self._exit = ExitStack()

    @property
    def address(self) -> str:
        """Where clients connect, as `host:port`."""
        return self._running().address

    @property
    def versions(self) -> dict[str, Path]:
        """The versions that are served, with their model folders."""
        return dict(self._folders)

    @property
    def applications(self) -> dict[str, str]:
        """The versions with the names of their Serve applications."""
        return dict(self._applications)

    @property
    def default(self) -> str:
        """The version that answers calls which name none."""
        return self._default

    def __enter__(self) -> Self:
        settings = self.config.serve
        check_address(settings)
        folder, version = self._first
        _check_version(version)
        if not ray.is_initialized():
            raise RuntimeError("ScorerServer needs an initialised Ray")
        if serve.status().proxies:
            raise ResourceError("this Ray cluster runs Ray Serve already. Stop that service, or use another cluster.")
        self.inner_port = _free_port()
        with ExitStack() as stack:
            stack.callback(serve.shutdown)
            _start_serve(settings, self.inner_port)
            self._start(folder, version)
            self._gateway = stack.enter_context(Gateway(self._gateway_settings()))
            self._exit = stack.pop_all()
        logger.info("scorer %s answers at %s", version, self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()
        self._gateway = None

    def add(self, model_dir: str | Path, version: str) -> None:
        """Serve one more version beside the others; returns when it is warm and takes calls.

        A version that is served already gets the new folder's model in the place of its own, and no
        call fails. If this raises `ModelError`, `ConfigError` or `RoleError`, nothing has changed.
        """
        _check_version(version)
        with self._changing:
            gateway = self._running()
            old = self._applications.get(version)
            self._start(Path(model_dir), version)
            gateway.routes.replace(self._default, self._applications)
            logger.info("version %s is served from %s", version, model_dir)
            if old is not None:
                self._stop(gateway, old)

    def set_default(self, version: str) -> None:
        """Send calls that name no version to this one from now on. Raises `ConfigError` for one not
        served."""
        with self._changing:
            if version not in self._applications:
                raise ConfigError(f"version {version!r} is not served; served are {', '.join(self._applications)}")
            self._running().routes.replace(version, self._applications)
            self._default = version
            logger.info("version %s is the default", version)

    def remove(self, version: str) -> None:
        """Stop serving a version once its calls have ended. Raises `ConfigError` for the default
        and for one not served."""
        with self._changing:
            if version == self._default:
                raise ConfigError(f"version {version!r} is the default; make another one the default first")
            if version not in self._applications:
                raise ConfigError(f"version {version!r} is not served; served are {', '.join(self._applications)}")
            gateway = self._running()
            application = self._applications.pop(version)
            self._folders.pop(version)
            gateway.routes.replace(self._default, self._applications)
            self._stop(gateway, application)
            logger.info("version %s is no longer served", version)

    def _running(self) -> Gateway:
        if self._gateway is None:
            raise RuntimeError("the server is not running")
        return self._gateway

    def _start(self, folder: Path, version: str) -> None:
        """Start an application and wait until it is warm. The gateway's routes do not change
        yet."""
        folder = folder.resolve()
        card = replace(read_card(folder), version=version)
        app = build_app(self.config, folder, card, self.secret)
        # With a number, because a version that gets another folder runs twice for a while.
        name = f"{PREFIX}-{version}-{next(self._numbers)}"
        try:
            start(app, name)
            wait_until_ready(name, self.inner_port, self.secret, self.config.serve.start_timeout_s)
        except BaseException:
            delete(name)
            raise
        self._applications[version] = name
        self._folders[version] = folder

    def _stop(self, gateway: Gateway, application: str) -> None:
        """Wait for an application's last calls, which came before its route was removed; then stop
        it."""
        deadline = monotonic() + self.config.serve.request_timeout_s
        sleep(_POLL_S)
        while gateway.in_flight(application) and monotonic() < deadline:
            sleep(_POLL_S)
        delete(application)

    def _gateway_settings(self) -> GatewaySettings:
        settings = self.config.serve
        return GatewaySettings(
            host=settings.host,
            port=settings.port,
            upstream=f"127.0.0.1:{self.inner_port}",
            secret=self.secret,
            routes=Routes(self._default, self._applications),
            max_message_bytes=message_limit(self.config.image),
            request_timeout_s=settings.request_timeout_s,
            options=settings.gateway,
            gamma=self.config.rapo.reward.gamma,
            max_samples=settings.max_samples,
            max_in_flight=settings.most_replicas * (settings.max_ongoing_requests + settings.max_queued_requests),
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


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise ConfigError(
            f"{version!r} is no name for a model version: a name has up to 64 letters, digits, dots, hyphens and underscores"
        )


def _free_port() -> int:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _start_serve(settings: ServeConfig, port: int) -> None:
    serve.start(
        # gRPC needs the proxy. Its HTTP side stays on loopback, on any free port.
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host="127.0.0.1", port=_free_port()),
        grpc_options=gRPCOptions(
            port=port,
            grpc_servicer_functions=["rapo.v1.scorer_pb2_grpc.add_AestheticScorerServicer_to_server"],
            request_timeout_s=settings.request_timeout_s,
            enable_reflection=False,
        ),
    )

"""ScorerServer: the whole service, which is Serve, the gateway, and a Serve application for each
model version. `build` makes such an application alone.

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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

import ray
from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions

from rapo.config import Config, ServeConfig, load_config
from rapo.errors import ConfigError, ResourceError
from rapo.models.card import read_card
from rapo.storage.local_copy import local_copy
from rapo.storage.urls import is_url
from services.gateway.exposure import check_address
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import message_limit, read_secret
from services.replica.deployment import PREFIX, build_app, delete, start, wait_until_ready

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_POLL_S = 0.2

logger = logging.getLogger(__name__)


class AppArguments(BaseModel):
    """The arguments of `build`: a model folder (a path or a URL) and a file with the gateways'
    secret, at the same paths on every node, and a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    secret_file: Path
    version: str | None = None
    config: Path | None = None
    set: tuple[str, ...] = ()


def build(arguments: Mapping[str, object]) -> serve.Application:
    """The application of one version for `import_path: services.app:build` in a Serve
    configuration, such as that of a RayService; gateways run elsewhere (`rapo gateway`).

    Raises `ConfigError` for other arguments than those of `AppArguments`, or a secret or a
    configuration that cannot be used, and `ModelError` for a folder without a model.
    """
    try:
        given = AppArguments.model_validate(dict(arguments))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"args of services.app:build: {wrong}") from error
    read_secret(given.secret_file)  # an error here rather than in every replica
    config = load_config(given.config, given.set)
    card = read_card(local_copy(given.model, config.storage.scratch))
    if given.version is not None:
        _check_version(given.version)
        card = replace(card, version=given.version)
    return build_app(config, given.model, card, given.secret_file)


class ScorerServer:
    """A running service; use it as a context manager. Ray must be initialised, on any node.

    It starts with one version, the default. Entering takes as long as the engine takes to start, at
    most `serve.start_timeout_s` seconds. It raises `ConfigError` for an address that may not be
    served, `ResourceError` if the port is taken or the cluster serves something else already, and
    `RoleError` if a replica does not start. Leaving stops everything that was started.
    """

    def __init__(self, config: Config, model_dir: str | Path, model_version: str) -> None:
        self.config = config
        #: Port of Serve's own gRPC proxy, and its address as `host:port`.
        self.inner_port = 0
        self.inner_address = ""
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
        self.inner_address = f"{head_address()}:{self.inner_port}"
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
        if not is_url(folder):
            folder = folder.resolve()
        card = replace(read_card(local_copy(folder, self.config.storage.scratch)), version=version)
        app = build_app(self.config, folder, card, self.secret)
        # With a number, because a version that gets another folder runs twice for a while.
        name = f"{PREFIX}-{version}-{next(self._numbers)}"
        try:
            start(app, name)
            wait_until_ready(name, self.inner_address, self.secret, self.config.serve.start_timeout_s)
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
            upstreams=(self.inner_address,),
            secret=self.secret,
            routes=Routes(self._default, self._applications),
            max_message_bytes=message_limit(self.config.image),
            request_timeout_s=settings.request_timeout_s,
            image=self.config.image,
            options=settings.gateway,
            gamma=self.config.rapo.reward.gamma,
            max_samples=settings.max_samples,
            max_in_flight=settings.most_in_flight,
        )


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise ConfigError(
            f"{version!r} is no name for a model version: a name has up to 64 letters, digits, dots, hyphens and underscores"
        )


def head_address() -> str:
    """The address of the head node, where Serve's proxy runs; loopback on a local Ray."""
    for node in ray.nodes():
        if node["Alive"] and HEAD_NODE_RESOURCE_NAME in node["Resources"]:
            address: str = node["NodeManagerAddress"]
            return f"[{address}]" if ":" in address else address
    raise ResourceError("Ray names no head node that is alive, so that Serve's proxy cannot be reached")


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

"""The service as a whole: Serve, the scorer's replicas and the gateway, started together and stopped together."""

from __future__ import annotations

import logging
import secrets
import socket
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions

from rapo.config import Config, ServeConfig
from rapo.errors import ResourceError, RoleError
from rapo.model_folder import check_model_folder
from services.access import check_access
from services.gateway import Gateway, GatewaySettings
from services.routes import Routes
from services.scorer import Scorer

APPLICATION = "rapo-scorer"

_POLL_S = 0.5
_LOGS = "logs/serve of the Ray session folder (/tmp/ray/session_latest unless ray.temp_dir says otherwise)"
# Twice the largest image: what is somewhat too large should be told so in words rather than cut off by gRPC.
_MESSAGE_FACTOR = 2

logger = logging.getLogger(__name__)


def build_app(config: Config, model_dir: str | Path, model_version: str, secret: str) -> serve.Application:
    """The Serve application: `serve.replicas` scorers that answer only to who knows `secret`.

    Raises `ModelError` where `model_dir` is no model folder of a supported kind.
    """
    check_model_folder(model_dir)
    # Not at the top: it imports transformers, which the gateway and its tests need not wait for.
    from rapo.inference.engine import engine_environment

    settings = config.serve
    environment = engine_environment(settings.threads, config.rollout.engine.kv_cache_gib)
    options: dict[str, Any] = {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "runtime_env": {"env_vars": environment},
    }
    deployment = serve.deployment(
        name="Scorer",
        num_replicas=settings.replicas,
        ray_actor_options=options,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        graceful_shutdown_timeout_s=min(settings.request_timeout_s, 20.0),
        max_constructor_retry_count=1,
    )
    return deployment(Scorer).bind(config, str(model_dir), model_version, secret)


class ScorerServer:
    """A running service; use it as a context manager. Ray must be initialised, on the cluster's head node.

    Entering takes as long as the engine takes to start, at most `serve.start_timeout_s` seconds. It raises
    `ConfigError` for an address that may not be served, `ResourceError` where the port is taken or the cluster serves
    something else already, and `RoleError` where a replica does not start. Leaving stops all that was started.
    """

    def __init__(self, config: Config, model_dir: str | Path, model_version: str) -> None:
        self.config = config
        self.model_dir = Path(model_dir).resolve()
        self.model_version = model_version
        self.inner_port = 0
        self._gateway: Gateway | None = None
        self._exit = ExitStack()

    @property
    def address(self) -> str:
        """Where clients connect, as `host:port`."""
        if self._gateway is None:
            raise RuntimeError("the server is not running")
        return self._gateway.address

    def __enter__(self) -> Self:
        settings = self.config.serve
        check_address(settings)
        if not ray.is_initialized():
            raise RuntimeError("ScorerServer needs an initialised Ray")
        if serve.status().proxies:
            raise ResourceError("this Ray cluster runs Ray Serve already. Stop that service, or use another cluster.")
        secret = secrets.token_urlsafe(32)
        app = build_app(self.config, self.model_dir, self.model_version, secret)
        self.inner_port = _free_port()
        with ExitStack() as stack:
            stack.callback(serve.shutdown)
            _start_serve(settings, self.inner_port)
            # Without a route Serve's gRPC proxy does not find the application either. Over HTTP there is nothing to
            # call behind it: the deployment has no `__call__`.
            target = serve.RunTarget(target=app, name=APPLICATION, route_prefix=f"/{APPLICATION}")
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
            deadline = monotonic() + settings.start_timeout_s
            _wait_until_running(deadline, settings.start_timeout_s)
            self._gateway = stack.enter_context(Gateway(self._gateway_settings(secret)))
            _wait_until_answering(self._gateway, deadline)
            self._exit = stack.pop_all()
        logger.info("scorer %s answers at %s", self.model_version, self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gateway = None
        self._exit.close()

    def _gateway_settings(self, secret: str) -> GatewaySettings:
        settings = self.config.serve
        return GatewaySettings(
            host=settings.host,
            port=settings.port,
            upstream=f"127.0.0.1:{self.inner_port}",
            secret=secret,
            routes=Routes(self.model_version, {self.model_version: APPLICATION}),
            max_message_bytes=_MESSAGE_FACTOR * self.config.image.max_bytes + 2**16,
            request_timeout_s=settings.request_timeout_s,
            options=settings.gateway,
            gamma=self.config.rapo.reward.gamma,
            max_samples=settings.max_samples,
        )


def check_address(settings: ServeConfig) -> None:
    """Raise `ConfigError` for an address that is not safe to serve, `ResourceError` for a port that is taken."""
    check_access(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free enough
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ResourceError(
                f"port {settings.port} on {settings.host} is in use ({error.strerror}). Stop what listens there, or "
                "choose another port with --set serve.port=..."
            ) from error


def _free_port() -> int:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _start_serve(settings: ServeConfig, port: int) -> None:
    serve.start(
        # Without a proxy there is no gRPC either. The HTTP side of it stays on loopback, on any free port.
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host="127.0.0.1", port=_free_port()),
        grpc_options=gRPCOptions(
            port=port,
            grpc_servicer_functions=["rapo.v1.scorer_pb2_grpc.add_AestheticScorerServicer_to_server"],
            request_timeout_s=settings.request_timeout_s,
            enable_reflection=False,
        ),
    )


def _wait_until_running(deadline: float, limit_s: float) -> None:
    while True:
        overview = serve.status().applications.get(APPLICATION)
        state = overview.status.value if overview is not None else "NOT_STARTED"
        if state == "RUNNING":
            return
        said = _cause(overview) or "no word from it."
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RoleError(f"the scorer did not start ({state}): {said} The whole story is in {_LOGS}.")
        if monotonic() > deadline:
            raise RoleError(
                f"the scorer was not ready within {limit_s:g} s ({state}): {said} Check that the cluster has "
                "serve.cpus and serve.gpus free for each of serve.replicas, allow more with --set "
                f"serve.start_timeout_s=..., or see {_LOGS}."
            )
        sleep(_POLL_S)


def _wait_until_answering(gateway: Gateway, deadline: float) -> None:
    """Serve's proxy learns of a running application a moment later; nobody should be sent there before."""
    while (silence := gateway.answers()) is not None:
        if monotonic() > deadline:
            raise RoleError(f"the scorer runs but does not answer through its gateway: {silence}")
        sleep(_POLL_S)


def _cause(overview: Any) -> str:
    """The last line of what Serve says about the deployment: of a replica's traceback, that is the error itself."""
    deployments = overview.deployments.values() if overview is not None else ()
    lines = [line.strip() for deployment in deployments for line in deployment.message.splitlines() if line.strip()]
    return lines[-1] if lines else ""

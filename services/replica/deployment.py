"""Deployment: builds, starts and deletes the Serve application of one model version."""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypedDict

import grpc
from ray import serve
from ray.serve.config import AutoscalingConfig

from rapo.config import Config, ServeConfig
from rapo.errors import RoleError
from rapo.models.card import Card, with_card
from rapo.models.folder import check_model_folder
from rapo.storage.local_copy import local_copy
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.names import SECRET_KEY, message_limit
from services.replica.servicer import Scorer

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

#: The first part of an application's name; the version follows.
PREFIX = "rapo-scorer"

_POLL_S = 0.5
# How long a replica that is to stop may finish what it has begun; Serve's queue is drained before.
_GRACE_S = 20.0
# Calls that a replica takes beyond those in its engine and its queue: for GetModel, and to refuse
# them.
_SPARE = 64
_LOGS = "logs/serve of the Ray session folder (ray/session_latest in the folder rapo-UID of the temporary folder)"

logger = logging.getLogger(__name__)


def build_app(config: Config, model_dir: str | Path, card: Card, secret: str | Path) -> serve.Application:
    """The Serve application of one version: scorers that answer only calls with `secret`. A path is
    read on each replica's own node, so that Ray does not keep the secret.

    Lengths and dtype come from the card, the number of replicas from `serve.autoscale` or
    `serve.replicas`. Raises `ModelError` if `model_dir` is no model folder of a supported kind.
    """
    check_model_folder(local_copy(model_dir, config.storage.scratch))
    # Not at the top: it imports transformers, which the gateway and its tests need not wait for.
    from rapo.inference.environment import engine_environment

    config = with_card(config, card)
    settings = config.serve
    environment = engine_environment(settings.threads, config.rollout.engine.kv_cache_gib)
    environment |= config.ray.environment("serve", settings.gpus)
    # The limit of gRPC between Serve's proxy and its replicas, which is 4 MiB by default.
    environment["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"] = str(message_limit(config.image))
    # vLLM would configure its own log when it is imported, and close all handlers of the process.
    # Serve's handler then writes nothing, and keeps every line in memory: 2.4 kB a call.
    environment["VLLM_CONFIGURE_LOGGING"] = "0"
    options: dict[str, object] = {
        "num_cpus": settings.cpus,
        "num_gpus": config.serve_gpus,
        "runtime_env": {"env_vars": environment},
    }
    if settings.labels:
        options["label_selector"] = settings.labels
    deployment = serve.deployment(
        name="Scorer",
        ray_actor_options=options,
        # A replica has a queue of its own (`services.replica.image_scorer`); Serve's is for the
        # time in which there is no replica.
        max_ongoing_requests=settings.max_ongoing_requests + settings.max_queued_requests + _SPARE,
        max_queued_requests=settings.max_ongoing_requests + settings.max_queued_requests,
        graceful_shutdown_timeout_s=min(settings.request_timeout_s, _GRACE_S),
        max_constructor_retry_count=1,
        **_replicas(settings),
    )
    return deployment(Scorer).bind(config, str(model_dir), card, secret)


def start(app: serve.Application, name: str) -> None:
    """Have Serve run `app` under this name; returns at once."""
    # Serve's gRPC proxy, too, finds an application by its route. HTTP calls to it fail, because the
    # deployment has no `__call__`.
    target = serve.RunTarget(target=app, name=name, route_prefix=f"/{name}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def wait_until_ready(name: str, address: str, secret: str, limit_s: float) -> None:
    """Wait until every replica has warmed up and Serve's proxy at `address` finds the application.

    Raises `RoleError` if it does not start, or not within `limit_s` seconds.
    """
    deadline = monotonic() + limit_s
    _wait_until_running(name, deadline, limit_s)
    # The proxy learns of a running application a moment later; calls before that would fail.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        get_model = scorer_pb2_grpc.AestheticScorerStub(channel).GetModel
        metadata = (("application", name), (SECRET_KEY, secret))
        while True:
            try:
                get_model(scorer_pb2.GetModelRequest(), metadata=metadata, timeout=10.0)
                return
            except grpc.RpcError as error:
                if monotonic() > deadline:
                    raise RoleError(f"{name} runs but does not answer: {error.code().name}. See {_LOGS}.") from error
            sleep(_POLL_S)


def delete(name: str) -> None:
    """Delete the application; its replicas finish what they have begun. This may return before they
    have."""
    try:
        serve.delete(name)
    except TimeoutError:
        logger.warning("%s takes long to stop; it gets no calls any more", name)


class _Replicas(TypedDict, total=False):
    num_replicas: int
    autoscaling_config: AutoscalingConfig


def _replicas(settings: ServeConfig) -> _Replicas:
    scale = settings.autoscale
    if scale is None or scale.min_replicas == scale.max_replicas:
        return {"num_replicas": settings.replicas if scale is None else scale.min_replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=scale.min_replicas,
            max_replicas=scale.max_replicas,
            target_ongoing_requests=scale.target_ongoing_requests,
            upscale_delay_s=scale.upscale_delay_s,
            downscale_delay_s=scale.downscale_delay_s,
        )
    }


def _wait_until_running(name: str, deadline: float, limit_s: float) -> None:
    while True:
        overview = serve.status().applications.get(name)
        state = overview.status.value if overview is not None else "NOT_STARTED"
        if state == "RUNNING":
            return
        cause = _cause(overview) or "no word from it."
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RoleError(f"{name} did not start ({state}): {cause} The whole story is in {_LOGS}.")
        if monotonic() > deadline:
            raise RoleError(
                f"{name} was not ready within {limit_s:g} s ({state}): {cause} Check that the cluster has serve.cpus and "
                "serve.gpus free for each of its replicas, allow more with --set serve.start_timeout_s=..., or see "
                f"{_LOGS}."
            )
        sleep(_POLL_S)


def _cause(overview: ApplicationStatusOverview | None) -> str:
    """The last line of Serve's message about the deployment: of a replica's traceback, that is the
    error itself."""
    deployments = overview.deployments.values() if overview is not None else ()
    lines = [line.strip() for deployment in deployments for line in deployment.message.splitlines() if line.strip()]
    return lines[-1] if lines else ""

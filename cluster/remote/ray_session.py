"""Ray session: joins the cluster that the user names, or starts a local instance that ends with
the run."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from rapo.config import Config
from rapo.errors import ResourceError
from rapo.system_folder import python_path
from rapo.util.private_folder import private_folder
from services.names import message_limit

_SHM = Path("/dev/shm")

#: The environment of every process of a run: no telemetry, no look-ups in the network, no progress
#: bars in the logs.
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

#: How Serve's processes of a local Ray work, where the user's environment says nothing else. Its
#: proxy speaks gRPC with the replicas, too, rather than through actor calls, and writes its lines
#: per call a hundred at a time: a fifth more images a second in all (docs/results.md). On a cluster
#: of the user's own these belong into the environment that Ray is started with.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}

#: What Serve's proxy calls as it starts: on a local Ray it stays on loopback.
_PROXY_HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "services.loopback.guard_proxy"}

#: Where `ray job submit` tells a driver of the job's runtime environment.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_LOOPBACK = "127.0.0.1"
_THIS_MACHINE = (_LOOPBACK, "localhost", "::1")
# What a message may grow on its way from the gateway: its request id is filled in.
_MESSAGE_ROOM = 2**16


def logical_cpus(config: Config) -> int:
    """CPUs that a local instance must offer so that every role of a stage can be placed.

    They are permits, not cores: the stages' roles take turns, so a 2-core machine runs them all.
    """
    training = config.most_workers * config.rollout.cpus + config.learner.workers * config.learner.cpus + 1
    coldstart = config.coldstart.workers * config.coldstart.cpus + 2
    critiques = (
        config.aescot.teacher.actors * config.aescot.teacher.cpus
        + config.aescot.judge.actors * config.aescot.judge.cpus
    )
    serving = config.serve.most_replicas * config.serve.cpus + 2
    return int(-(-max(training, coldstart, critiques + 1, serving) // 1)) + 1


def check_object_store(config: Config) -> None:
    """Raise `ResourceError` where a local object store of the configured size would not fit into
    shared memory."""
    if config.ray.address is not None or not _SHM.is_dir():
        return
    free = shutil.disk_usage(_SHM).free // 2**20
    if free < config.ray.object_store_mib:
        # How much a given model needs, only its size tells.
        lower = f", or give --set ray.object_store_mib={max(80, min(512, free // 2))}"
        raise ResourceError(
            f"no room for the object store: it needs {config.ray.object_store_mib} MiB of shared memory (ray.object_store_mib), "
            f"{_SHM} has {free} MiB free. Free some, or enlarge it (of a container by --shm-size)"
            f"{lower if config.policy.model == 'embedded' else ''}."
        )


def socket_room() -> int:
    """The bytes that the path of the temporary folder may have: Ray's sockets are below it, and
    Linux takes socket paths of at most 107 bytes."""
    below = f"/rapo-{os.getuid()}/ray/session_0000-00-00_00-00-00_000000_0000000/sockets/plasma_store"
    return 107 - len(below)


def temporary_folder_problem(config: Config) -> str:
    """Why a local Ray cannot use its temporary folder, and what to do; empty where it can."""
    chosen = config.ray.temp_dir
    folder = Path(tempfile.gettempdir()) if chosen is None else chosen
    name = f"the temporary folder {folder}" if chosen is None else f"ray.temp_dir = {folder}"
    if len(os.fsencode(folder)) > socket_room():
        return (
            f"{name} is too long: Ray's sockets lie below it, and its path may have {socket_room()} bytes. Give a shorter one "
            "by ray.temp_dir"
        )
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return f"{name} cannot be written: give another one by ray.temp_dir"
    return ""


def working_dir_problem(config: Config) -> str:
    """Why `ray.working_dir` cannot be sent to the nodes, and what to do; empty where it can, or is
    not given."""
    folder = config.ray.working_dir
    if folder is None:
        return ""
    if config.ray.address is None:
        return "ray.working_dir is for a cluster: give ray.address as well, or leave it out"
    if missing := [name for name in ("rapo", "actors", "cluster", "services") if not (folder / name).is_dir()]:
        return f"ray.working_dir = {folder} is no checkout of rapo: it has no folder {missing[0]}"
    return ""


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connect to the configured cluster, or start a local Ray that is shut down on exit. Nested use
    joins the outer one.

    A local Ray listens on loopback only, and so does Ray Serve on it.
    """
    prepare_environment(config)
    import ray
    from ray.exceptions import RuntimeEnvSetupError
    from ray.job_config import JobConfig

    class Job(JobConfig):
        """Keeps the working folder off the workers' path, where Ray would put it first: a folder
        `services` in it would hide the system's."""

        def _runtime_env_has_working_dir(self) -> bool:
            return True

    if ray.is_initialized():
        yield
        return
    if config.ray.address is None:
        check_object_store(config)
        if problem := temporary_folder_problem(config):
            raise ResourceError(problem)
        from ray._private import services

        # Ray would put the machine's address in its place, and listen on all interfaces.
        with mock.patch.object(services, "resolve_ip_for_localhost", lambda host: host), _start_failures():
            ray.init(
                job_config=Job(),
                address="local",  # also where RAY_ADDRESS is set: the configuration asks for a local instance
                num_cpus=config.ray.cpus or logical_cpus(config),
                object_store_memory=config.ray.object_store_mib * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=_LOOPBACK,
                # Ray makes this folder, and all in it, writable for everybody.
                _temp_dir=str(private_folder(config.ray.temp_dir) / "ray"),
            )
    else:
        if problem := working_dir_problem(config):
            raise ResourceError(problem)
        try:
            # Not as a part of the job's configuration, where `ray job submit` would replace it.
            ray.init(
                job_config=Job(),
                runtime_env=_runtime_environment(config),
                address=config.ray.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except RuntimeEnvSetupError as error:
            raise ResourceError(f"ray.working_dir = {config.ray.working_dir} cannot be sent: {error}") from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ResourceError(f"no Ray cluster answers at {config.ray.address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _runtime_environment(config: Config) -> dict[str, object]:
    """What the processes of a joined cluster need to import the system's packages."""
    # Its nodes may have rapo in other places than this one: each looks for itself.
    environment: dict[str, object] = {"worker_process_setup_hook": "rapo.system_folder.add_to_path"}
    submitted = json.loads(os.environ.get(_SUBMITTED, "{}")).get("runtime_env") or {}
    # The folder that a job was submitted with is there already, and Ray takes no second one.
    if config.ray.working_dir is not None and "working_dir" not in submitted:
        environment["working_dir"] = str(config.ray.working_dir)
    return environment


@contextmanager
def _start_failures() -> Iterator[None]:
    """Turns what a local Ray raises where it does not come up into `ResourceError`."""
    try:
        yield
    except Exception as error:  # where its processes are slow to start, Ray raises one of no kind
        if not (isinstance(error, OSError | RuntimeError | ValueError) or type(error) is Exception):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ResourceError(
            f"a local Ray does not start: {' '.join(lines[:2])[:300] or type(error).__name__}. `rapo doctor` looks at memory, "
            "disks and folders; ray.temp_dir names another folder for Ray's sockets and logs"
        ) from error


def prepare_environment(config: Config) -> None:
    """Set what Ray and the hub libraries read at import. Raises `RuntimeError` where ray was
    imported before, which is a defect of the caller."""
    if "ray" in sys.modules and config.ray.address is None and os.environ.get("RAY_AUTH_MODE") != "token":
        raise RuntimeError("prepare_environment came after the first import of ray")
    os.environ.update(QUIET_ENVIRONMENT)
    _pass_proxies_by()
    if config.ray.address is None:
        # Every process of a local Ray inherits this. The hook that a joined cluster gets instead
        # would keep tasks from the workers that Ray starts in advance.
        os.environ["PYTHONPATH"] = python_path(os.environ)
        # A token of this process keeps other users of the machine out of a local instance.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        for name, value in SERVE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ.update(_PROXY_HOOK)
        # Serve's proxy would take messages of 2 GiB before the deployment refuses their callers.
        os.environ["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"] = str(message_limit(config.image) + _MESSAGE_ROOM)


def _pass_proxies_by() -> None:
    """Have no process of a run ask an HTTP proxy of the environment for this machine. Serve's
    processes, too, speak gRPC with each other."""
    for name in ("no_proxy", "no_grpc_proxy"):
        known = os.environ.get(name) or os.environ.get(name.upper(), "")
        # gRPC looks at the second one instead of the first, where there is a second one.
        if name == "no_proxy" or known:
            hosts = [host.strip() for host in known.split(",") if host.strip()]
            os.environ[name] = ",".join(dict.fromkeys((*hosts, *_THIS_MACHINE)))


def log_folder() -> str:
    """Where Ray keeps the logs of this session's processes."""
    from ray._private import worker

    node = worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs" if node is not None else "Ray's session folder on the head node"
